//! The table: what was measured of both, beside the budget.

/// What a number must not pass.
#[derive(Clone, Copy)]
pub enum Budget {
    /// It must not be more.
    AtMost(f64),
    /// It must not be less.
    AtLeast(f64),
    /// There is none: it is a part of another row.
    None,
}

/// What was measured of ours and of containerd.
#[derive(Default)]
pub struct Samples(pub [Vec<f64>; 2]);

impl Samples {
    /// The medians.
    fn medians(&self) -> [f64; 2] {
        self.0.each_ref().map(|samples| quantile(samples, 0.5))
    }
}

/// Prints the heading.
pub fn heading(versions: [&str; 2]) {
    let [ours, theirs] = versions;
    println!(
        "{:<34} {ours:>14} {:>10} {theirs:>18} {:>7} {:>12}",
        "", "at best", "ratio", "budget"
    );
}

/// Prints a row: both medians, ours at its best, ours as a part of theirs.
pub fn row(title: &str, unit: &str, samples: &Samples, budget: Budget) {
    let [ours, theirs] = samples.medians();
    let (best, wanted) = match budget {
        Budget::AtLeast(limit) => (1.0, format!(">= {limit}{}", verdict(ours >= limit))),
        Budget::AtMost(limit) => (0.0, format!("<= {limit}{}", verdict(ours <= limit))),
        Budget::None => (0.0, String::new()),
    };
    let best = quantile(&samples.0[0], best);
    println!(
        "{:<34} {ours:>14.2} {best:>10.2} {theirs:>18.2} {:>7.3} {wanted:>12}",
        format!("{title}, {unit}"),
        ours / theirs,
    );
}

fn verdict(held: bool) -> &'static str {
    if held { "" } else { " !" }
}

/// The sample below which that part of all samples is; the nearest there is.
fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let index = (part * last as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn quantiles_are_samples() {
        let samples = [3.0, 1.0, 2.0, 5.0, 4.0];
        let found = [0.0, 0.5, 1.0].map(|part| quantile(&samples, part));
        assert!(found.iter().zip([1.0, 3.0, 5.0]).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        assert!(quantile(&[], 0.5).is_nan());
    }
}
