//! The text of a scrape, in both forms.
//!
//! Prometheus' text format 0.0.4 (prometheus.io, "Exposition formats") and OpenMetrics 1.0 differ
//! in little: there a family of counters has the name of its samples, here it has no `_total`;
//! here there are units, a type of its own for facts, and an end.

use std::fmt::Write as _;

use crate::{
    accept::Format,
    durations::{BOUNDS, DurationsRead},
};

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the daemon ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
    /// A fact in labels, whose value is 1.
    Info,
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// A scrape that is being written.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    format: Format,
}

/// A family of samples that is being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
}

impl Exposition {
    /// Begins one.
    pub fn new(format: Format) -> Self {
        Self { text: String::new(), format }
    }

    /// Begins a family. Its name has neither `_total` nor `_info`, which its kind brings, and
    /// ends in the unit where it has one. The help is plain text of one line.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let open_metrics = self.format == Format::OpenMetrics;
        let (suffix, word) = match (kind, open_metrics) {
            (Kind::Counter, true) => ("", "counter"),
            (Kind::Counter, false) => ("_total", "counter"),
            (Kind::Gauge, _) => ("", "gauge"),
            (Kind::Histogram, _) => ("", "histogram"),
            (Kind::Info, true) => ("", "info"),
            (Kind::Info, false) => ("_info", "gauge"),
        };
        let text = &mut self.text;
        // Writing to a text does not fail.
        let _ = writeln!(text, "# HELP {name}{suffix} {help}");
        let _ = writeln!(text, "# TYPE {name}{suffix} {word}");
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')));
        if let Some(unit) = unit.filter(|_| open_metrics) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        Family { text, name, kind }
    }

    /// Writes a family of one sample without labels.
    pub fn single(&mut self, kind: Kind, name: &'static str, help: &str, value: impl Into<Value>) {
        self.family(kind, name, help).sample(&[], value);
    }

    /// Ends it.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// Writes a sample. No two of a family may have the same labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.line(suffix, labels, None, value.into());
    }

    /// Writes a histogram.
    pub fn histogram(&mut self, labels: &[(&str, &str)], durations: &DurationsRead) {
        let mut sum = 0;
        let bounds = BOUNDS.iter().map(|(label, _)| *label).chain(["+Inf"]);
        for (bound, count) in bounds.zip(durations.buckets) {
            sum += count;
            self.line("_bucket", labels, Some(bound), Value::Whole(sum));
        }
        self.line("_sum", labels, None, Value::Real(durations.sum.as_secs_f64()));
        self.line("_count", labels, None, Value::Whole(sum));
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: Value) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        for (number, (name, value)) in labels.iter().copied().chain(bound).enumerate() {
            text.push(if number == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    letter => text.push(letter),
                }
            }
            text.push('"');
        }
        if bound.is_some() || !labels.is_empty() {
            text.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(text, " {value}"),
            Value::Real(value) => writeln!(text, " {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Durations;

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        exposition.single(Kind::Counter, "x_read_bytes", "Bytes that were read.", 7_u64);
        let mut family = exposition.family(Kind::Gauge, "x_pods", "Pods.");
        family.sample(&[("state", "a \"b\" \\ c\nd"), ("handler", "")], 1.5);
        exposition.family(Kind::Info, "x_build", "The build.").sample(&[("version", "1")], 1_u64);
        let durations = Durations::default();
        durations.count(Duration::from_millis(1500));
        let mut family = exposition.family(Kind::Histogram, "x_seconds", "Durations.");
        family.histogram(&[("call", "c")], &durations.read());
        exposition.finish()
    }

    #[test]
    fn both_forms_are_as_their_documents_have_them() {
        let buckets: String = BOUNDS
            .iter()
            .map(|(label, ns)| (*label, u64::from(*ns > 1_500_000_000)))
            .chain([("+Inf", 1)])
            .map(|(label, count)| {
                format!("x_seconds_bucket{{call=\"c\",le=\"{label}\"}} {count}\n")
            })
            .collect();
        let text = format!(
            "# HELP x_read_bytes_total Bytes that were read.\n# TYPE x_read_bytes_total counter\n\
             x_read_bytes_total 7\n\
             # HELP x_pods Pods.\n# TYPE x_pods gauge\n\
             x_pods{{state=\"a \\\"b\\\" \\\\ c\\nd\",handler=\"\"}} 1.5\n\
             # HELP x_build_info The build.\n# TYPE x_build_info gauge\n\
             x_build_info{{version=\"1\"}} 1\n\
             # HELP x_seconds Durations.\n# TYPE x_seconds histogram\n\
             {buckets}x_seconds_sum{{call=\"c\"}} 1.5\nx_seconds_count{{call=\"c\"}} 1\n"
        );
        assert_eq!(written(Format::Text), text);
        let open_metrics = text
            .replace("x_read_bytes_total Bytes", "x_read_bytes Bytes")
            .replace(
                "# TYPE x_read_bytes_total counter\n",
                "# TYPE x_read_bytes counter\n# UNIT x_read_bytes bytes\n",
            )
            .replace("HELP x_build_info", "HELP x_build")
            .replace("TYPE x_build_info gauge", "TYPE x_build info")
            .replace("seconds histogram\n", "seconds histogram\n# UNIT x_seconds seconds\n");
        assert_eq!(written(Format::OpenMetrics), open_metrics + "# EOF\n");
    }
}
