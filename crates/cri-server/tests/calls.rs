//! The list of calls is the interface's, and the README tells it as it is.

use cri_server::CALLS;

const INTERFACE: &str = include_str!("../../cri-proto/wire/v1.tsv");
const DEPRECATED: &str = include_str!("../../cri-proto/wire/v1alpha2.tsv");
const README: &str = include_str!("../../../README.md");

fn calls_of(table: &str) -> Vec<(&str, &str)> {
    let mut calls: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("service\t"))
        .filter_map(|rest| {
            let mut fields = rest.split('\t');
            Some((fields.next()?, fields.next()?))
        })
        .collect();
    calls.sort_unstable();
    calls
}

#[test]
fn every_call_of_the_interface_is_listed() {
    let mut listed: Vec<_> = CALLS.iter().map(|c| (c.service, c.name)).collect();
    listed.sort_unstable();
    assert_eq!(listed, calls_of(INTERFACE));
}

#[test]
fn the_readme_tells_which_calls_are_served() {
    let deprecated = calls_of(DEPRECATED);
    let rows: Vec<String> = CALLS
        .iter()
        .map(|call| {
            let word = if call.served { "served" } else { "`Unimplemented`" };
            let old =
                if deprecated.contains(&(call.service, call.name)) { word } else { "not in it" };
            format!("| {} | {} | {word} | {old} |", call.service, call.name)
        })
        .collect();
    let table: Vec<&str> = README
        .lines()
        .filter(|l| l.starts_with("| RuntimeService |") || l.starts_with("| ImageService |"))
        .collect();
    assert_eq!(table, rows);
}
