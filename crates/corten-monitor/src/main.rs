//! `corten-monitor`: the parent process of one pod.
//!
//! Makes the pod's user namespace and what that owns, starts its containers and exec
//! sessions, holds their streams, writes their logs, keeps how they ended. It outlives the
//! daemon: every answer it owes waits for the next one.
//!
//! ```text
//! epoll ─┬─ daemons (requests, at most four connections)      ops.rs, connection.rs
//!        ├─ launches under way                                 container.rs, exec.rs
//!        ├─ streams of containers ─► logs, who is attached     stream.rs, attach.rs
//!        ├─ SIGCHLD: exits, recorded before they are reaped    exits.rs, ending.rs
//!        ├─ runtime programs                                   program.rs, program_exec.rs
//!        └─ time: drains, exec time-outs, notices repeated     monitor.rs
//! ```
//!
//! One thread, no async runtime, bounded buffers. Nothing that a container writes or
//! a daemon sends may make it panic or grow.
#![forbid(unsafe_code)]

mod attach;
mod connection;
mod container;
mod ending;
mod exec;
mod exits;
mod kill;
mod monitor;
mod ooms;
mod ops;
mod poll;
mod program;
mod program_exec;
mod report;
mod sandbox;
mod setup;
mod stream;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Nothing but 0, 1 and 2 is ours.
    if let Err(error) = sys::startup::close_foreign() {
        report::say(&format!("foreign descriptors stay open: {error}"));
    }
    if let Some(scratch) = setup::probe_directory() {
        return probe(&scratch);
    }
    if setup::is_asked_to_hold() {
        return setup::hold();
    }
    let arguments = match setup::arguments() {
        Ok(arguments) => arguments,
        Err(reason) => {
            report::say(&reason);
            return ExitCode::from(2);
        }
    };
    match setup::prepare().and_then(|inherited| monitor::Monitor::new(arguments, inherited)?.run())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Says whether this machine can run containers in user namespaces: by its end, and why not.
fn probe(scratch: &std::path::Path) -> ExitCode {
    match launch::probe_user_namespaces(scratch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", container::chain(&error));
            ExitCode::FAILURE
        }
    }
}

pub(crate) use report::say;
