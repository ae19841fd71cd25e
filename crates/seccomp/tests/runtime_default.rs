//! What the default profile lets through, and what it stops.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use std::collections::BTreeSet;

use seccomp::{Machine, Program, compile_for, runtime_default_for};
use support::{ALLOW, Call, ENOSYS, EPERM, I386, KILL_PROCESS, X86_64, check, run};

/// containerd's default bounding set.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

fn program(more: &[&'static str]) -> Program {
    let capabilities: BTreeSet<&str> = DEFAULT.iter().chain(more).copied().collect();
    let profile = runtime_default_for(Some(Machine::X86_64), &capabilities);
    let program = compile_for(Machine::X86_64, &profile).unwrap();
    check(program.instructions());
    program
}

fn number(name: &str) -> u32 {
    name.parse::<syscalls::x86_64::Sysno>().unwrap().id().unsigned_abs()
}

#[test]
fn calls_on_x86_64() {
    let program = program(&[]);
    for (name, args, wanted) in [
        ("read", vec![], ALLOW),
        ("execve", vec![], ALLOW),
        ("ptrace", vec![], ALLOW),
        ("chroot", vec![], ALLOW),
        ("arch_prctl", vec![], ALLOW),
        ("fchmodat2", vec![], ALLOW),
        ("mount", vec![], EPERM),
        ("unshare", vec![], EPERM),
        ("setns", vec![], EPERM),
        ("keyctl", vec![], EPERM),
        ("bpf", vec![], EPERM),
        ("io_uring_setup", vec![], EPERM),
        ("userfaultfd", vec![], EPERM),
        ("kexec_load", vec![], EPERM),
        ("init_module", vec![], EPERM),
        ("open_by_handle_at", vec![], EPERM),
        ("reboot", vec![], EPERM),
        ("clone3", vec![], ENOSYS),
        ("clone", vec![0x003d_0f00], ALLOW),
        ("clone", vec![17], ALLOW),
        ("clone", vec![0xff00_0000_0000_0011], ALLOW),
        ("clone", vec![0x1000_0000], EPERM),
        ("clone", vec![0x0002_0000], EPERM),
        ("clone", vec![0x0200_0000], EPERM),
        ("personality", vec![0], ALLOW),
        ("personality", vec![8], ALLOW),
        ("personality", vec![0x2_0000], ALLOW),
        ("personality", vec![0x2_0008], ALLOW),
        ("personality", vec![0xffff_ffff], ALLOW),
        ("personality", vec![0x4_0000], EPERM),
        ("socket", vec![1], ALLOW),
        ("socket", vec![2], ALLOW),
        ("socket", vec![10], ALLOW),
        ("socket", vec![16], ALLOW),
        ("socket", vec![31], ALLOW),
        ("socket", vec![37], ALLOW),
        ("socket", vec![38], EPERM),
        ("socket", vec![39], ALLOW),
        ("socket", vec![40], EPERM),
        ("socket", vec![41], ALLOW),
        ("socket", vec![45], ALLOW),
        ("socket", vec![0x1_0000_0026], EPERM),
        ("socket", vec![0xffff_ffff_0000_0028], EPERM),
        ("socket", vec![0x1_0000_0002], ALLOW),
        ("file_setattr", vec![], ENOSYS),
    ] {
        let call = Call::new(X86_64, number(name), &args);
        assert_eq!(run(program.instructions(), &call), wanted, "{name} {args:x?}");
    }
}

#[test]
fn every_address_family_but_two() {
    let program = program(&[]);
    for family in 0..64 {
        let wanted = if family == 38 || family == 40 { EPERM } else { ALLOW };
        let call = Call::new(X86_64, 41, &[family]);
        assert_eq!(run(program.instructions(), &call), wanted, "{family}");
    }
}

#[test]
fn other_conventions() {
    let program = program(&[]);
    for (arch, number, args, wanted) in [
        (I386, 3, vec![], ALLOW),
        (I386, 21, vec![], EPERM),
        (I386, 359, vec![38], EPERM),
        (I386, 359, vec![2], ALLOW),
        (I386, 102, vec![1], ALLOW),
        (I386, 435, vec![], ENOSYS),
        (X86_64, 0x4000_0000 + 520, vec![], ALLOW),
        (X86_64, 0x4000_0000 + 165, vec![], EPERM),
        (X86_64, 0x4000_0000 + 41, vec![40], EPERM),
        (0xc000_00b7, 63, vec![], KILL_PROCESS),
    ] {
        let call = Call::new(arch, number, &args);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn capabilities_add_calls() {
    let newuser: &[u64] = &[0x1000_0000];
    for (capability, calls) in [
        (
            "CAP_SYS_ADMIN",
            vec![("mount", &[][..]), ("clone3", &[]), ("clone", newuser), ("bpf", &[])],
        ),
        ("CAP_SYS_PTRACE", vec![("kcmp", &[][..]), ("pidfd_getfd", &[])]),
        ("CAP_BPF", vec![("bpf", &[][..])]),
        ("CAP_PERFMON", vec![("perf_event_open", &[][..])]),
        ("CAP_SYS_MODULE", vec![("finit_module", &[][..])]),
        ("CAP_SYS_TIME", vec![("clock_settime", &[][..]), ("settimeofday", &[])]),
        ("CAP_SYSLOG", vec![("syslog", &[][..])]),
        ("CAP_SYS_NICE", vec![("mbind", &[][..])]),
        ("CAP_SYS_BOOT", vec![("reboot", &[][..])]),
        ("CAP_SYS_PACCT", vec![("acct", &[][..])]),
        ("CAP_SYS_RAWIO", vec![("iopl", &[][..])]),
        ("CAP_SYS_TTY_CONFIG", vec![("vhangup", &[][..])]),
        ("CAP_DAC_READ_SEARCH", vec![("open_by_handle_at", &[][..])]),
    ] {
        for (name, args) in calls {
            let call = Call::new(X86_64, number(name), args);
            assert_ne!(run(program(&[]).instructions(), &call), ALLOW, "{name}");
            assert_eq!(run(program(&[capability]).instructions(), &call), ALLOW, "{name}");
        }
    }
}

#[test]
fn a_runtime_without_rule_order_reads_the_same_profile() {
    for capabilities in [BTreeSet::new(), BTreeSet::from(["CAP_SYS_ADMIN"])] {
        let profile = runtime_default_for(Some(Machine::X86_64), &capabilities);
        let rules = profile.syscalls().clone().unwrap();
        let always: Vec<_> = rules
            .iter()
            .filter(|rule| rule.args().is_none())
            .flat_map(|rule| rule.names())
            .collect();
        let distinct: BTreeSet<_> = always.iter().collect();
        assert_eq!(always.len(), distinct.len(), "a call with two unconditional rules");
        for rule in rules.iter().filter(|rule| rule.args().is_some()) {
            assert!(!rule.names().iter().any(|name| always.contains(&name)), "{:?}", rule.names());
        }
    }
}

#[test]
fn the_filter_is_small() {
    // A call costs the path through it: the search is logarithmic, and the whole must stay
    // in few cache lines.
    let length = program(&[]).instructions().len();
    assert!(length < 700, "{length} instructions");
}

#[test]
fn aarch64_has_a_profile_too() {
    let profile = runtime_default_for(Some(Machine::Aarch64), &BTreeSet::new());
    let program = compile_for(Machine::Aarch64, &profile).unwrap();
    check(program.instructions());
    for (arch, number, wanted) in [
        (support::AARCH64, 63, ALLOW),
        (support::AARCH64, 79, ALLOW),
        (support::AARCH64, 40, EPERM),
        (support::AARCH64, 435, ENOSYS),
        (support::ARM, 0xf_0002, ALLOW),
        (support::ARM, 21, EPERM),
    ] {
        let call = Call::new(arch, number, &[]);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn the_profile_survives_a_round_trip_through_text() {
    let profile = runtime_default_for(Some(Machine::X86_64), &BTreeSet::new());
    let text = serde_json::to_string(&profile).unwrap();
    let again: oci_spec::runtime::LinuxSeccomp = serde_json::from_str(&text).unwrap();
    assert_eq!(again, profile);
}
