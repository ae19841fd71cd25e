//! Running the tests and counting them.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::build;
use crate::command::{cargo_program, watch};
use crate::guest::{self, Outcome};
use crate::tally::Tally;

/// The number of the try that nothing follows, as cargo-nextest tells it.
const LAST_TRY: &str = "2";

/// Tests beside the code, with cargo-nextest where it is installed.
pub fn unit(tally: &mut Tally) {
    let everything = ["--workspace", "--locked", "--no-fail-fast"];
    if has_nextest() {
        let mut nextest = cargo("nextest");
        // A second try is told as such (`flaky`).
        nextest.arg("run").args(everything).args(["--no-tests=pass", "--retries=1"]);
        counted(tally, "unit tests", nextest);
        // Few items have examples to run: that all of them compile counts as one.
        let examples = ["test", "--workspace", "--locked", "--quiet", "--doc"];
        tally.step("documentation tests", || crate::command::cargo(&examples));
    } else {
        let mut tests = cargo("test");
        tests.args(everything);
        counted(tally, "unit tests", tests);
    }
}

/// The programs as they are shipped, then the suite against them and, beside
/// them, the runtime that serves as judge.
pub fn end_to_end(tally: &mut Tally) {
    let mut built = false;
    tally.step("static programs", || build::build().inspect(|()| built = true));
    if built {
        let mut suite = cargo("run");
        suite.args(["--locked", "--quiet", "--package", "e2e", "--bin", "e2e", "--"]);
        suite.args(["--runtime", "both"]);
        counted(tally, "end-to-end tests", suite);
        in_guest(tally, || guest::run_chosen(&build::dist()));
    }
}

/// Tests in the guest, which counts by itself.
pub fn in_guest(tally: &mut Tally, run: impl FnOnce() -> Result<Outcome>) {
    const NAME: &str = "tests in the guest";
    println!("== {NAME}");
    match run() {
        Ok(outcome) => {
            tally.add(NAME, outcome.passed, outcome.failed);
            match outcome.broken {
                Some(why) => tally.fail(NAME, &why),
                None if outcome.passed + outcome.failed == 0 => {
                    tally.fail(NAME, "nothing was counted")
                }
                None => {}
            }
        }
        Err(error) => tally.fail(NAME, &format!("{error:#}")),
    }
}

fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(cargo_program());
    cargo.arg(command);
    cargo
}

fn has_nextest() -> bool {
    let asked = cargo("nextest")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

fn counted(tally: &mut Tally, name: &str, mut command: Command) {
    println!("== {name}");
    // Counts are taken from the output; colours would be in the way.
    command.env("NO_COLOR", "1").env("CARGO_TERM_COLOR", "never");
    let (mut passed, mut failed) = (0, 0);
    let mut names = Vec::new();
    let result = watch(command, |line| {
        if let Some((more_passed, more_failed)) = counts(line) {
            passed += more_passed;
            failed += more_failed;
        }
        names.extend(failure(line).filter(|name| !names.contains(name)));
    });
    tally.add(name, passed, failed);
    for failed in names {
        tally.name(failed);
    }
    match result {
        Ok(true) if passed + failed == 0 => tally.fail(name, "nothing was counted"),
        Ok(false) if failed == 0 => tally.fail(name, "it failed without a failed test"),
        Ok(_) => {}
        Err(error) => tally.fail(name, &format!("{error:#}")),
    }
}

/// The name of a test that failed, in a line of cargo-nextest or of our suite's table. A try that
/// another one follows is none.
pub fn failure(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let of_nextest = || {
        let last = line.split_once("] ").map(|(_, name)| name.trim());
        let last_try = words.strip_prefix(&["TRY", LAST_TRY]).unwrap_or(&words);
        let is_end = matches!(last_try, ["FAIL" | "TIMEOUT" | "SIGABRT" | "SIGSEGV", ..]);
        last.filter(|_| is_end && line.starts_with(' '))
    };
    let of_suite = || match words.as_slice() {
        // The table's line, not the one of the moment.
        [name, "FAILED", ..] if name.contains('.') && !line.starts_with(' ') => Some(*name),
        _ => None,
    };
    of_nextest().or_else(of_suite).map(str::to_owned)
}

/// The counts in the summary line of cargo test, cargo-nextest or our suite.
pub fn counts(line: &str) -> Option<(u64, u64)> {
    // nextest shows the output of a failed test indented, its own summary too.
    let summary = line.starts_with("test result: ")
        || line.trim_start().starts_with("Summary [")
        || line.starts_with("end-to-end: ");
    if !summary {
        return None;
    }
    let count = |what: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.trim_end_matches([',', ';']) == what)?;
        words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
    };
    let failed = count("failed").unwrap_or(0) + count("timed").unwrap_or(0);
    Some((count("passed")?, failed))
}

#[cfg(test)]
mod tests {
    use super::{counts, failure};

    #[test]
    fn failed_tests_are_named() {
        for (line, expected) in [
            (
                "        FAIL [   0.1s] (2/9) types signal::tests::a",
                Some("(2/9) types signal::tests::a"),
            ),
            ("  TRY 1 FAIL [   0.1s] (2/9) types signal::tests::a", None),
            (
                "  TRY 2 FAIL [   0.1s] (2/9) types signal::tests::a",
                Some("(2/9) types signal::tests::a"),
            ),
            ("  TRY 2 PASS [   0.1s] (2/9) types signal::tests::a", None),
            ("        PASS [   0.1s] (2/9) types signal::tests::a", None),
            ("log.is_kept                     FAILED   1.38 s  why", Some("log.is_kept")),
            ("log.is_kept                     ok   1.38 s", None),
            ("Corten log.is_kept FAILED 1.4 s", None),
            ("test a::b ... FAILED", None),
        ] {
            assert_eq!(failure(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn summaries_are_read() {
        for (line, expected) in [
            ("test result: ok. 22 passed; 1 failed; 0 ignored; finished in 0.95s", Some((22, 1))),
            ("     Summary [   1.2s] 30 tests run: 28 passed, 2 failed, 1 skipped", Some((28, 2))),
            ("     Summary [   1.2s] 30 tests run: 30 passed (1 slow), 0 skipped", Some((30, 0))),
            ("end-to-end: 12 passed, 3 failed", Some((12, 3))),
            ("3 passed, 1 failed", None),
            ("    test result: FAILED. 0 passed; 1 failed; 0 ignored", None),
            ("running 3 tests", None),
        ] {
            assert_eq!(counts(line), expected, "{line}");
        }
    }
}
