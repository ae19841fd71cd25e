//! `corten-monitor`: the parent process of one pod.
//!
//! Makes the pod's namespaces, starts its containers and exec sessions, holds their
//! streams, writes their logs, keeps how they ended. It outlives the daemon: every
//! answer it owes waits for the next one.
//!
//! ```text
//! epoll ─┬─ daemons (requests, at most four connections)      ops.rs, connection.rs
//!        ├─ launches under way                                 container.rs, exec.rs
//!        ├─ streams of containers ─► logs                      stream.rs
//!        ├─ SIGCHLD: exits, recorded before they are reaped    exits.rs
//!        └─ time: drains, exec time-outs, notices repeated     monitor.rs
//! ```
//!
//! One thread, no async runtime, bounded buffers. Nothing that a container writes or
//! a daemon sends may make it panic or grow.
#![forbid(unsafe_code)]

mod connection;
mod container;
mod exec;
mod exits;
mod monitor;
mod ops;
mod poll;
mod setup;
mod stream;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match setup::arguments() {
        Ok(arguments) => arguments,
        Err(reason) => {
            eprintln!("corten-monitor: {reason}");
            return ExitCode::from(2);
        }
    };
    match setup::prepare(&arguments).and_then(|inherited| monitor::Monitor::new(arguments, inherited)?.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corten-monitor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says something in the monitor's log, one line.
pub(crate) fn say(text: &str) {
    eprintln!("{}", text.replace('\n', " "));
}
