//! What commands print, and in which form.

use std::io::{self, Write};

use anyhow::bail;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::json::Json;

/// The two streams that a command writes to.
pub struct Output<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// Warnings, and what a program wrote to its standard error.
    pub err: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self { out, err }
    }

    /// Says on standard error what the user should know but need not act on.
    pub fn warn(&mut self, message: &str) -> io::Result<()> {
        writeln!(self.err, "corten: warning: {message}")
    }

    /// Writes `json` as JSON or YAML; no other form can be asked of it.
    pub fn structured(&mut self, json: &Json, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => writeln!(self.out, "{}", serde_json::to_string_pretty(json)?)?,
            Format::Yaml => self.out.write_all(yaml(json)?.as_bytes())?,
            Format::Table => bail!("this has no table form, use --output json or yaml"),
            Format::GoTemplate => bail!(NO_TEMPLATES),
        }
        Ok(())
    }
}

const NO_TEMPLATES: &str =
    "go-template output is not supported, use --output json and a program such as jq";

/// Renders YAML with a newline at its end.
fn yaml(json: &Json) -> anyhow::Result<String> {
    let mut text = serde_saphyr::to_string(json)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// The program's exit code, when that is the result and needs no words.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Exit(pub u8);

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Table,
    /// Known by name, so that the answer says what to use instead.
    GoTemplate,
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Json, Self::Yaml, Self::Table, Self::GoTemplate]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Json => PossibleValue::new("json"),
            Self::Yaml => PossibleValue::new("yaml"),
            Self::Table => PossibleValue::new("table"),
            Self::GoTemplate => PossibleValue::new("go-template").hide(true),
        })
    }
}

/// `--output`.
#[derive(Args, Clone, Copy, Debug)]
pub struct FormatArg {
    /// The form of the output
    #[arg(long, short = 'o', value_name = "FORMAT")]
    output: Option<Format>,
}

impl FormatArg {
    /// The form asked for, otherwise `default`.
    pub fn or(self, default: Format) -> anyhow::Result<Format> {
        match self.output.unwrap_or(default) {
            Format::GoTemplate => bail!(NO_TEMPLATES),
            format => Ok(format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text_in_yaml() {
        let odd = [
            "",
            " ",
            "1",
            "1e5",
            "0x1f",
            ".5",
            "~",
            "null",
            "true",
            "no",
            "on",
            "2023-11-14",
            "a: b",
            "- a",
            "# a",
            "a #b",
            "{a}",
            "[a]",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a`",
            "'a'",
            "\"a\"",
            "a\nb",
            "a\n",
            "\ta",
            "1_000",
            "12:30",
            "=",
            "<<",
            "é",
        ];
        for text in odd {
            let object = Json::Object(vec![(text.to_owned(), Json::text(text))]);
            let written = yaml(&object).expect("written");
            let read: serde_json::Value = serde_saphyr::from_str(&written).expect(&written);
            assert_eq!(read, serde_json::json!({ text: text }), "{written}");
        }
    }
}
