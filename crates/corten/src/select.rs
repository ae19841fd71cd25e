//! Which of a list's objects are wanted.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use clap::Args;
use regex_lite::Regex;

/// `--latest` and `--last`.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Newest {
    /// Only the most recently created one, in any state
    #[arg(long, short = 'l')]
    pub latest: bool,
    /// Only the N most recently created ones, in any state; 0 is all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 0)]
    pub last: usize,
}

impl Newest {
    /// Whether a number of objects was asked for.
    pub fn is_set(self) -> bool {
        self.latest || self.last > 0
    }

    /// Sorts by creation, the newest first, and keeps as many as wanted.
    pub fn apply<T>(self, items: &mut Vec<T>, created_at: impl Fn(&T) -> i64) {
        items.sort_by_key(|item| std::cmp::Reverse(created_at(item)));
        if self.latest {
            items.truncate(1);
        } else if self.last > 0 {
            items.truncate(self.last);
        }
    }
}

/// Whose figures are wanted: those of one, or of those with labels.
#[derive(Args, Clone, Debug, Default)]
pub struct Counted {
    /// Only the one with this id, or the beginning of it
    #[arg(value_name = "ID")]
    one: Option<String>,
    /// The same, as crictl writes it
    #[arg(long, value_name = "ID", conflicts_with = "one")]
    id: Option<String>,
    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
}

impl Counted {
    /// An id, none for all, and labels.
    pub fn filter(self) -> anyhow::Result<(String, HashMap<String, String>)> {
        let Self { one, id, label } = self;
        Ok((one.or(id).unwrap_or_default(), pairs("--label", &label)?))
    }
}

/// A pattern that a name must match somewhere; none matches everything.
pub struct Pattern(Option<Regex>);

impl Pattern {
    pub fn new(option: &str, pattern: Option<&str>) -> anyhow::Result<Self> {
        let compile = |text| {
            Regex::new(text).with_context(|| format!("{option} `{text}` is no regular expression"))
        };
        Ok(Self(pattern.filter(|text| !text.is_empty()).map(compile).transpose()?))
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|pattern| pattern.is_match(name))
    }
}

/// Parses `key=value` options.
pub fn pairs(option: &str, given: &[String]) -> anyhow::Result<HashMap<String, String>> {
    let mut pairs = HashMap::new();
    for text in given {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                pairs.insert(key.to_owned(), value.to_owned());
            }
            _ => bail!("{option} `{text}` is not of the form KEY=VALUE"),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        counted: Counted,
    }

    #[test]
    fn figures_of_one_are_asked_for_in_two_ways() {
        let filter = |words: &[&str]| {
            let line = Line::try_parse_from([&["stats"], words].concat()).ok()?;
            line.counted.filter().ok()
        };
        let labels = HashMap::from([("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(filter(&[]), Some((String::new(), HashMap::new())));
        assert_eq!(filter(&["one", "--label", "a=b=c"]), Some(("one".to_owned(), labels)));
        assert_eq!(filter(&["--id", "one"]), Some(("one".to_owned(), HashMap::new())));
        assert_eq!(filter(&["one", "--id", "two"]), None);
        assert_eq!(filter(&["--label", "a"]), None);
    }
}
