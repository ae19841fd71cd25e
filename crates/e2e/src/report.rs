//! Results, side by side.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::runtime::Kind;

/// What became of a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It holds at the second try, and why it did not at the first.
    Second(String),
    /// It does not hold, and why.
    Failed(String),
    /// It does not hold on containerd, as is known: the reason and what happened.
    Known(&'static str, String),
}

impl Outcome {
    /// Of a case's result.
    #[must_use]
    pub fn of(result: Result<()>) -> Self {
        result.map_or_else(|error| Self::Failed(format!("{error:#}")), |()| Self::Passed)
    }

    /// A failure becomes a known one.
    #[must_use]
    pub fn known(self, reason: &'static str) -> Self {
        match self {
            Self::Failed(why) => Self::Known(reason, why),
            other => other,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Second(_) => "ok (2nd)",
            Self::Failed(_) => "FAILED",
            Self::Known(..) => "differs",
        }
    }
}

/// What became of all cases, by name.
#[derive(Default)]
pub struct Results {
    rows: BTreeMap<String, BTreeMap<u8, (Outcome, Duration)>>,
}

/// Columns in the order in which they are shown.
const COLUMNS: [(Kind, u8); 2] = [(Kind::Corten, 0), (Kind::Containerd, 1)];

fn column(kind: Kind) -> u8 {
    COLUMNS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, column)| *column)
}

impl Results {
    /// Adds a result, and shows failures as they come.
    pub fn add(&mut self, kind: Kind, name: &str, outcome: Outcome, took: Duration) {
        println!("{kind:?} {name} {} {:.1} s", outcome.word(), took.as_secs_f64());
        if let Outcome::Failed(why) = &outcome {
            println!("    {}", why.replace('\n', "\n    "));
        }
        self.rows.entry(name.to_owned()).or_default().insert(column(kind), (outcome, took));
    }

    /// The cases that failed on a runtime.
    #[must_use]
    pub fn failed(&self, kind: Kind) -> Vec<String> {
        let failed = |row: &BTreeMap<u8, (Outcome, Duration)>| {
            matches!(row.get(&column(kind)), Some((Outcome::Failed(_), _)))
        };
        self.rows.iter().filter(|(_, row)| failed(row)).map(|(name, _)| name.clone()).collect()
    }

    /// Takes the result of a second try of a case that failed.
    pub fn try_again(&mut self, kind: Kind, name: &str, outcome: Outcome, took: Duration) {
        let first = self.rows.get(name).and_then(|row| row.get(&column(kind)));
        let outcome = match (outcome, first) {
            (Outcome::Passed, Some((Outcome::Failed(why), _))) => Outcome::Second(why.clone()),
            (outcome, _) => outcome,
        };
        self.add(kind, name, outcome, took);
    }

    /// The cases that hold at the second try, and why they did not at the first.
    pub fn second(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.rows.iter().filter_map(move |(name, row)| match row.get(&column(kind))? {
            (Outcome::Second(why), _) => Some((name.as_str(), why.as_str())),
            _ => None,
        })
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: Self) {
        for (name, row) in other.rows {
            self.rows.entry(name).or_default().extend(row);
        }
    }

    /// Prints the table. `versions` are the columns' titles.
    pub fn print(&self, versions: &[(Kind, String)]) {
        let width = self.rows.keys().map(String::len).max().unwrap_or(0);
        print!("\n{:width$}", "case");
        versions.iter().for_each(|(_, title)| print!("  {title:>20}"));
        println!("  remark");
        for (name, row) in &self.rows {
            print!("{name:width$}");
            let mut remark = "";
            for (kind, _) in versions {
                let cell = match row.get(&column(*kind)) {
                    Some((outcome, took)) => {
                        if let Outcome::Known(reason, _) = outcome {
                            remark = reason;
                        }
                        format!("{} {:>6.2} s", outcome.word(), took.as_secs_f64())
                    }
                    None => "-".to_owned(),
                };
                print!("  {cell:>20}");
            }
            println!("  {remark}");
        }
    }

    /// How many cases hold and how many do not, on a runtime.
    #[must_use]
    pub fn counts(&self, kind: Kind) -> (usize, usize) {
        let outcomes = self.rows.values().filter_map(|row| row.get(&column(kind)));
        outcomes.fold((0, 0), |(passed, failed), (outcome, _)| match outcome {
            Outcome::Passed | Outcome::Second(_) => (passed + 1, failed),
            Outcome::Failed(_) => (passed, failed + 1),
            Outcome::Known(..) => (passed, failed),
        })
    }
}
