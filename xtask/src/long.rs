//! The long tier: what takes too long for each run. What it shows is committed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::build;
use crate::command::{cargo_program, watch};
use crate::tally::Tally;

/// Where the output is committed.
const OUTPUT: &str = "docs/long-tier.md";

/// The crates with fuzz targets: beside their code, or in tests of that name.
const FUZZED: [&str; 5] = ["container-spec", "corten", "images", "monitor-proto", "streaming"];
const FUZZED_BY_TESTS: [&str; 1] = ["layers"];

/// What the long tier does.
#[derive(Args)]
pub struct Options {
    /// Takes the programs from there as they are instead of building them.
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
    /// How long each parser is fuzzed.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    fuzz: u64,
    /// Only cases and parsers whose name holds this text; nothing is written then.
    #[arg(long)]
    filter: Option<String>,
}

/// Runs the long cases and fuzzes all parsers, and writes what was seen.
pub fn run(tally: &mut Tally, options: &Options) {
    let programs = match &options.programs {
        Some(programs) => programs.clone(),
        None => {
            tally.step("static programs", build::build);
            build::dist()
        }
    };
    let mut seen = Seen::default();
    tally.step("long cases", || cases(&programs, options, &mut seen));
    tally.step("fuzzing", || {
        fuzz(&FUZZED, &["--lib", "--bins", "fuzz"], options, &mut seen)?;
        fuzz(&FUZZED_BY_TESTS, &["--test", "fuzz"], options, &mut seen)
    });
    if options.filter.is_none() {
        tally.step("the page of the results", || write(&seen, options));
    }
}

/// What was printed and is kept.
#[derive(Default)]
struct Seen {
    /// A case's name, its result and its seconds.
    cases: Vec<[String; 3]>,
    /// A case's name and what it measured.
    figures: Vec<[String; 2]>,
    /// A parser's name and how often it was called.
    parsers: Vec<[String; 2]>,
}

impl Seen {
    fn see(&mut self, line: &str) {
        if let Some((name, text)) = line.strip_prefix("figure fuzz ").and_then(named) {
            self.parsers.push([name, text]);
        } else if let Some((name, text)) = line.strip_prefix("figure ").and_then(named) {
            self.figures.push([name, text]);
        } else if let Some(case) = case(line) {
            self.cases.push(case);
        }
    }
}

/// `NAME: TEXT`.
fn named(line: &str) -> Option<(String, String)> {
    let (name, text) = line.split_once(": ")?;
    Some((name.to_owned(), text.to_owned()))
}

/// `Corten NAME RESULT SECONDS s`, as the suite prints each case at its end.
fn case(line: &str) -> Option<[String; 3]> {
    match line.strip_prefix("Corten ")?.split(' ').collect::<Vec<_>>()[..] {
        [name, result, seconds, "s"] => Some([name, result, seconds].map(str::to_owned)),
        _ => None,
    }
}

fn cases(programs: &Path, options: &Options, seen: &mut Seen) -> Result<()> {
    let mut suite = Command::new(cargo_program());
    suite.args(["run", "--locked", "--quiet", "--package", "e2e", "--bin", "e2e", "--", "--long"]);
    suite.arg("--program").arg(programs.join("corten"));
    suite.args(options.filter.iter().flat_map(|text| ["--filter", text]));
    let passed = watch(suite, |line| seen.see(line))?;
    ensure!(passed, "a case failed");
    Ok(())
}

fn fuzz(crates: &[&str], targets: &[&str], options: &Options, seen: &mut Seen) -> Result<()> {
    let mut tests = Command::new(cargo_program());
    tests.args(["test", "--locked", "--quiet"]);
    tests.args(crates.iter().flat_map(|name| ["--package", name])).args(targets);
    tests.args(["--", "--nocapture"]).args(&options.filter);
    tests.env("CORTEN_FUZZ_SECONDS", options.fuzz.to_string());
    let before = seen.parsers.len();
    let passed = watch(tests, |line| seen.see(line))?;
    ensure!(passed, "a parser failed");
    ensure!(seen.parsers.len() > before || options.filter.is_some(), "nothing was fuzzed");
    Ok(())
}

fn write(seen: &Seen, options: &Options) -> Result<()> {
    ensure!(!seen.cases.is_empty() && !seen.figures.is_empty(), "no case told anything");
    fs::write(OUTPUT, page(seen, &machine()?, options.fuzz))
        .with_context(|| format!("failed to write {OUTPUT}"))
}

/// The machine, how busy it is, and the time, in a few words.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("no {path}"));
    let (cpu, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let processors = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let date = Command::new("date").args(["--utc", "+%Y-%m-%d"]).output().context("no date")?;
    let load = read("/proc/loadavg")?;
    Ok(format!(
        "{}, Linux {}, {processors} processors with a load of {}, {} MiB",
        String::from_utf8_lossy(&date.stdout).trim(),
        read("/proc/sys/kernel/osrelease")?.trim(),
        load.split(' ').next().unwrap_or_default(),
        kib.unwrap_or_default() / 1024,
    ))
}

fn page(seen: &Seen, machine: &str, seconds: u64) -> String {
    let mut page = format!(
        "# The long tier\n\nWhat `make long` showed: cases that take too long for `make test`, \
         which runs shorter forms\nof them, and all parsers of foreign bytes, fuzzed for \
         {seconds} s each.\n\n{machine}.\n\n| case | result | seconds | what it showed |\n\
         |---|---|---|---|\n"
    );
    for [name, result, took] in &seen.cases {
        let told = seen.figures.iter().filter(|[of, _]| of == name).map(|[_, text]| text.as_str());
        let told = told.collect::<Vec<_>>().join("; ");
        let _ = writeln!(page, "| `{name}` | {result} | {took} | {told} |");
    }
    page.push_str("\n| parser | how often it was called |\n|---|---|\n");
    let mut parsers: Vec<_> = seen.parsers.iter().collect();
    parsers.sort();
    for [name, text] in parsers {
        let _ = writeln!(page, "| {name} | {text} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who fuzzes is found by what a target calls.
    #[test]
    fn all_fuzz_targets_are_known() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
        let calls = |path: &Path| {
            fs::read_to_string(path).is_ok_and(|text| text.contains("use testing::fuzz::fuzz;"))
        };
        for entry in fs::read_dir(crates).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let fuzzed =
                FUZZED.contains(&name.as_str()) || FUZZED_BY_TESTS.contains(&name.as_str());
            let mut folders = vec![entry.path()];
            let mut found = false;
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    match entry.path() {
                        path if path.is_dir() => folders.push(path),
                        path => found |= calls(&path),
                    }
                }
            }
            assert_eq!(found, fuzzed, "{name}");
        }
    }

    #[test]
    fn what_is_printed_becomes_the_page() {
        let mut seen = Seen::default();
        for line in [
            "figure log.long: 100 times",
            "Corten log.long ok 12.5 s",
            "figure fuzz spdy: 17 inputs in 60 s",
            "Containerd log.long ok 1.0 s",
            "    Corten is mentioned somewhere s",
            "figure without a name",
        ] {
            seen.see(line);
        }
        let page = page(&seen, "a machine", 60);
        assert!(page.contains("| `log.long` | ok | 12.5 | 100 times |\n"), "{page}");
        assert!(page.contains("| spdy | 17 inputs in 60 s |\n"), "{page}");
        assert!(page.contains("fuzzed for 60 s each.\n\na machine.\n"), "{page}");
        assert_eq!((seen.cases.len(), seen.figures.len(), seen.parsers.len()), (1, 1, 1));
    }
}
