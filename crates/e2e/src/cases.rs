//! The cases, by subject.

use crate::case::Case;

mod apparmor;
mod builtin;
mod cli;
mod containers;
mod devices;
mod disk;
mod exec;
mod fields;
mod handlers;
mod image_faults;
mod image_forms;
mod images;
mod logs;
mod mounts;
mod namespaces;
mod network;
mod node;
mod pods;
mod process_security;
mod protocol;
mod resources;
mod restart;
mod security;
mod settings;
mod stop;
mod systemd;
mod unified;
mod update;
mod users;

/// All cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        apparmor::CASES,
        builtin::CASES,
        cli::CASES,
        containers::CASES,
        devices::CASES,
        disk::CASES,
        exec::CASES,
        fields::CASES,
        handlers::CASES,
        image_faults::CASES,
        image_forms::CASES,
        images::CASES,
        logs::CASES,
        mounts::CASES,
        namespaces::CASES,
        network::CASES,
        node::CASES,
        pods::CASES,
        process_security::CASES,
        protocol::CASES,
        resources::CASES,
        restart::CASES,
        security::CASES,
        settings::CASES,
        stop::CASES,
        systemd::CASES,
        unified::CASES,
        update::CASES,
        users::CASES,
    ]
    .concat()
}
