//! Which form a client wants, by its `Accept` headers (RFC 9110, section 12.5.1).

/// The forms of an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which every client reads.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The most of what a client accepts that is looked at.
const MOST_RANGES: usize = 32;

impl Format {
    /// The form that a client likes best; who says nothing of either gets the text format.
    pub fn accepted<'a>(headers: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges = headers.into_iter().flat_map(|header| header.split(',')).take(MOST_RANGES);
        let (mut open_metrics, mut text) = (0, 0);
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut quality = 1000;
            let mut known = true;
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = thousandths(value.trim()),
                    // 0.0.1 is what 1.0.0 was before it was published, and reads the same.
                    "version" if kind == "application/openmetrics-text" => {
                        known = matches!(value.trim(), "1.0.0" | "0.0.1");
                    }
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if known => open_metrics = open_metrics.max(quality),
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// What the answer says of its form.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A quality in thousandths; what is none counts as 0.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.chars().chain("000".chars()).take(3);
    let fraction = digits
        .map(|digit| digit.to_digit(10))
        .try_fold(0, |sum, digit| digit.map(|digit| sum * 10 + digit));
    match (whole, fraction) {
        ("0" | "", Some(fraction)) => fraction,
        ("1", Some(0)) => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::Format::{OpenMetrics, Text};
    use super::*;

    #[test]
    fn the_form_is_the_clients() {
        for (accept, wanted) in [
            ("", Text),
            ("*/*", Text),
            ("text/html, image/png;q=0.3", Text),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text ; Version=1.0.0", OpenMetrics),
            ("application/openmetrics-text;version=9.9.9, */*;q=0.1", Text),
            ("application/openmetrics-text;q=0", Text),
            ("text/plain;q=1, application/openmetrics-text;q=0.999", Text),
            ("text/plain;q=0.5, application/openmetrics-text;q=0.500", OpenMetrics),
            ("application/openmetrics-text;q=nonsense", Text),
            // Prometheus 2 and 3, and its agent with protobuf first.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                 escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                 encoding=delimited;q=0.7,text/plain;version=0.0.4;q=0.3",
                Text,
            ),
        ] {
            assert_eq!(Format::accepted([accept]), wanted, "{accept}");
        }
        let two = ["text/plain;q=0.1", "application/openmetrics-text"];
        assert_eq!(Format::accepted(two), OpenMetrics);
    }
}
