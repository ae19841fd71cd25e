//! Containers launched for real, as root, from a root file system with a static busybox.
//!
//! Launching needs a process with one thread, so each case runs in a process of its own. The
//! arguments are those of the standard harness as far as people use them: a part of a name,
//! `--exact`, `--list`, `--nocapture`.

mod bench;
mod confinement;
mod filesystems;
mod harness;
mod hostile;
mod lifecycle;
mod sandboxes;
mod sessions;
mod users;

fn main() -> std::process::ExitCode {
    let groups = [
        confinement::CASES,
        filesystems::CASES,
        hostile::CASES,
        lifecycle::CASES,
        sandboxes::CASES,
        sessions::CASES,
        users::CASES,
    ];
    harness::run(&groups.concat())
}
