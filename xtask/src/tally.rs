//! What passed and what failed.

use anyhow::Result;

/// Counts of checks and tests.
#[derive(Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    broken: Vec<String>,
}

impl Tally {
    /// Runs a step that counts as one.
    pub fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        println!("== {name}");
        match step() {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(name, &format!("{error:#}")),
        }
    }

    /// Adds the counts of a step that has its own.
    pub fn add(&mut self, name: &str, passed: u64, failed: u64) {
        self.passed += passed;
        self.failed += failed;
        if failed > 0 {
            self.broken.push(format!("{name}: {failed} failed"));
        }
    }

    /// Names what failed of a step that has its own counts.
    pub fn name(&mut self, what: String) {
        self.broken.push(what);
    }

    /// Counts a step as failed.
    pub fn fail(&mut self, name: &str, why: &str) {
        println!("{name}: {why}");
        self.failed += 1;
        self.broken.push(format!("{name}: {}", why.lines().next().unwrap_or_default()));
    }

    /// Prints the result; says whether nothing failed.
    pub fn print(&self) -> bool {
        println!();
        for broken in &self.broken {
            println!("FAILED {broken}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}
