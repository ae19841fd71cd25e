//! The default profile in the kernel: it is taken, and does what the interpreter says.
//!
//! A filter binds the thread that loads it and those that it makes; each test runs in a
//! thread of its own. Needs root, as a container's start does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::BTreeSet;

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, socket},
};

/// Runs something in a thread under the default profile for a container.
fn confined<T: Send + 'static>(
    capabilities: &[&'static str],
    then: impl FnOnce() -> T + Send + 'static,
) -> T {
    let capabilities: BTreeSet<&str> = capabilities.iter().copied().collect();
    let program = seccomp::compile(&seccomp::runtime_default(&capabilities)).unwrap();
    let run = move || {
        let load: Vec<_> = program
            .instructions()
            .iter()
            .map(|i| sys::seccomp::SockFilter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
            .collect();
        sys::seccomp::load(&load, program.flags()).unwrap();
        then()
    };
    std::thread::spawn(run).join().unwrap()
}

#[test]
fn sockets_by_family() {
    let open = |family: u16| {
        socket(AddressFamily::from_raw(family), SocketType::DGRAM, None).map(|_| ()).err()
    };
    let [inet, unix, alg, vsock] = confined(&[], move || [2, 1, 38, 40].map(open));
    assert_eq!((inet, unix), (None, None));
    assert_eq!((alg, vsock), (Some(Errno::PERM), Some(Errno::PERM)));
}

#[test]
fn capabilities_decide() {
    let chroot = || rustix::process::chroot("/nonexistent-of-corten").unwrap_err();
    assert_eq!(confined(&[], chroot), Errno::PERM);
    assert_eq!(confined(&["CAP_SYS_CHROOT"], chroot), Errno::NOENT);
}

#[test]
fn threads_and_processes_still_start() {
    let started = confined(&[], || {
        let thread = std::thread::spawn(|| 7).join().unwrap();
        let status = std::process::Command::new("/bin/true").status().unwrap();
        (thread, status.success())
    });
    assert_eq!(started, (7, true));
}
