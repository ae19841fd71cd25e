//! What a ground's network leaves when a test fails.

use std::process::{Command, Stdio};

use crate::program;

/// Removes a bridge and the links that are attached to it.
pub fn remove_links(bridge: &str) {
    let attached =
        program::output(Command::new("ip").args(["-br", "link", "show", "master", bridge]));
    for line in attached.unwrap_or_default().lines() {
        let name = line.split(['@', ' ']).next().unwrap_or_default();
        quietly(Command::new("ip").args(["link", "delete", name]));
    }
    quietly(Command::new("ip").args(["link", "delete", bridge]));
}

/// Removes the table that the built-in network has under its bridge's name.
pub fn remove_table(name: &str) {
    for family in ["inet", "ip", "ip6"] {
        quietly(Command::new("nft").args(["delete", "table", family, name]));
    }
}

fn quietly(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
