//! The cases, by subject.

use crate::case::Case;

mod builtin;
mod cli;
mod containers;
mod disk;
mod exec;
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
mod stop;

/// All cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        builtin::CASES,
        cli::CASES,
        containers::CASES,
        disk::CASES,
        exec::CASES,
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
        stop::CASES,
    ]
    .concat()
}
