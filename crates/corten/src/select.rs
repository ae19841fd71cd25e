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
