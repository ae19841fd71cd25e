//! Decisions that name tests name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The decisions with tables of attacks and their tests.
const TABLES: [&str; 2] = [
    include_str!("../../../docs/decisions/0096-attacks-that-are-tested.md"),
    include_str!("../../../docs/decisions/0133-hostile-images-that-are-tested.md"),
];

/// What stands between backticks in the rows of tables.
fn quoted(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
}

/// All source files of the crates.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_tests_that_decisions_name_are_there() {
    let cases: BTreeSet<&str> = e2e::cases::all().iter().map(|case| case.name).collect();
    let groups: BTreeSet<&str> = cases.iter().filter_map(|name| name.split('.').next()).collect();
    let sources: Vec<(PathBuf, String)> = sources()
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a file")))
        .collect();
    let (mut named_cases, mut named_functions) = (0, 0);
    for name in TABLES.iter().flat_map(|table| quoted(table)) {
        if let Some((file, function)) = name.split_once("::") {
            let is_there = sources.iter().any(|(path, text)| {
                let stem = path.file_stem().is_some_and(|stem| stem == file);
                let module = path.parent().is_some_and(|dir| dir.ends_with(file));
                let own = function.is_empty() || text.contains(&format!("fn {function}("));
                (stem || module) && own
            });
            assert!(is_there, "there is no test {name}");
            named_functions += 1;
            continue;
        }
        let of_a_group = name.split_once('.').filter(|(group, _)| groups.contains(group));
        if let Some((_, case)) = of_a_group {
            assert!(case.is_empty() || cases.contains(name), "there is no case {name}");
            named_cases += 1;
        }
    }
    assert!(named_cases > 60 && named_functions > 60, "{named_cases} {named_functions}");
}
