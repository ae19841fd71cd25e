//! The cases, by subject.

use crate::case::Case;

mod apparmor;
mod attacks;
mod builtin;
mod cadvisor;
mod cli;
mod cli_streams;
mod cni;
mod containers;
mod cycles;
mod deadlines;
mod devices;
mod disk;
mod disk_faults;
mod escapes;
mod events;
mod exec;
mod exec_limits;
mod fields;
mod forwards;
mod handlers;
mod hostile;
mod image_care;
mod image_faults;
mod image_forms;
mod image_limits;
mod image_volumes;
mod images;
mod leftovers;
mod log_pace;
mod logs;
mod mapped_programs;
mod metrics;
mod metrics_endpoint;
mod mounts;
mod namespaces;
mod network;
mod node;
mod pod_resources;
mod pods;
mod power_cut;
mod process_security;
mod protocol;
mod python;
mod races;
mod requests;
mod resources;
mod restart;
mod security;
mod settings;
mod stats;
mod stop;
mod streaming;
mod streaming_breaks;
mod streaming_foreign;
mod streaming_restart;
mod streaming_settings;
mod systemd;
mod unified;
mod update;
mod user_namespaces;
mod users;
mod volumes;

/// All cases.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        apparmor::CASES,
        attacks::CASES,
        builtin::CASES,
        cadvisor::CASES,
        cli_streams::CASES,
        cli::CASES,
        cni::CASES,
        cycles::CASES,
        deadlines::CASES,
        containers::CASES,
        devices::CASES,
        disk::CASES,
        disk_faults::CASES,
        events::CASES,
        escapes::CASES,
        exec::CASES,
        exec_limits::CASES,
        fields::CASES,
        forwards::CASES,
        handlers::CASES,
        hostile::CASES,
        image_care::CASES,
        image_faults::CASES,
        image_forms::CASES,
        image_limits::CASES,
        image_volumes::CASES,
        images::CASES,
        leftovers::CASES,
        log_pace::CASES,
        logs::CASES,
        mapped_programs::CASES,
        metrics::CASES,
        metrics_endpoint::CASES,
        mounts::CASES,
        namespaces::CASES,
        network::CASES,
        node::CASES,
        pod_resources::CASES,
        pods::CASES,
        power_cut::CASES,
        process_security::CASES,
        protocol::CASES,
        races::CASES,
        requests::CASES,
        resources::CASES,
        restart::CASES,
        security::CASES,
        settings::CASES,
        stats::CASES,
        stop::CASES,
        streaming::CASES,
        streaming_breaks::CASES,
        streaming_foreign::CASES,
        streaming_restart::CASES,
        streaming_settings::CASES,
        systemd::CASES,
        unified::CASES,
        update::CASES,
        user_namespaces::CASES,
        users::CASES,
        volumes::CASES,
    ]
    .concat()
}
