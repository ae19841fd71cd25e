//! An interpreter of classic BPF as the kernel runs it on `struct seccomp_data`, and a
//! second reading of what a profile means, written without the compiler's help.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    dead_code,
    reason = "each test binary uses a part of it"
)]

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
};
use seccomp::SockFilter;

pub const X86_64: u32 = 0xc000_003e;
pub const I386: u32 = 0x4000_0003;
pub const AARCH64: u32 = 0xc000_00b7;
pub const ARM: u32 = 0x4000_0028;

pub const ALLOW: u32 = 0x7fff_0000;
pub const LOG: u32 = 0x7ffc_0000;
pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const KILL_THREAD: u32 = 0;
pub const TRAP: u32 = 0x0003_0000;
pub const fn errno(value: u32) -> u32 {
    0x0005_0000 | value
}
pub const EPERM: u32 = errno(1);
pub const ENOSYS: u32 = errno(38);

/// One call, as the kernel describes it to a filter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

impl Call {
    pub fn new(arch: u32, number: u32, args: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        Self { arch, number, args: all }
    }

    fn word(&self, offset: u32) -> u32 {
        assert!(offset.is_multiple_of(4) && offset < 64, "a load the kernel refuses: {offset}");
        let half =
            |value: u64| if offset.is_multiple_of(8) { value as u32 } else { (value >> 32) as u32 };
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => 0,
            _ => half(self.args[(offset as usize - 16) / 8]),
        }
    }
}

/// Checks what the kernel checks when a filter is installed.
pub fn check(program: &[SockFilter]) {
    assert!((1..=4096).contains(&program.len()), "{} instructions", program.len());
    for (at, i) in program.iter().enumerate() {
        let room = program.len() - at - 1;
        match i.code {
            0x20 => assert!(i.k.is_multiple_of(4) && i.k < 64),
            0x54 | 0x06 => {}
            0x05 => assert!(usize::try_from(i.k).unwrap() < room, "jump out at {at}"),
            0x15 | 0x25 | 0x35 => {
                assert!(usize::from(i.jt.max(i.jf)) < room, "branch out at {at}");
            }
            other => panic!("instruction {other:#x} at {at}"),
        }
    }
    assert_eq!(program.last().unwrap().code, 0x06, "the last one returns");
}

/// Runs a filter.
pub fn run(program: &[SockFilter], call: &Call) -> u32 {
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let i = program[at];
        at += 1;
        match i.code {
            0x20 => a = call.word(i.k),
            0x54 => a &= i.k,
            0x06 => return i.k,
            0x05 => at += usize::try_from(i.k).unwrap(),
            0x15 => at += usize::from(if a == i.k { i.jt } else { i.jf }),
            0x25 => at += usize::from(if a > i.k { i.jt } else { i.jf }),
            0x35 => at += usize::from(if a >= i.k { i.jt } else { i.jf }),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What a profile says of a call on x86_64 and i386, by the words of the specification.
pub fn judge(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let default = value(profile.default_action(), profile.default_errno_ret());
    let lists = |arch| profile.architectures().as_ref().is_some_and(|all| all.contains(&arch));
    let number: fn(&str) -> Option<u32> = match call.arch {
        X86_64 if (0x4000_0000..u32::MAX).contains(&call.number) => {
            assert!(!lists(Arch::ScmpArchX32), "x32 is judged by table, not here");
            return KILL_PROCESS;
        }
        X86_64 => {
            |name| name.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id().unsigned_abs())
        }
        I386 if lists(Arch::ScmpArchX86) => {
            |name| name.parse::<syscalls::x86::Sysno>().ok().map(|call| call.id().unsigned_abs())
        }
        _ => return KILL_PROCESS,
    };
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let newest = rules.iter().flat_map(|rule| rule.names()).filter_map(|n| number(n)).max();
    for rule in rules {
        let names_it = rule.names().iter().any(|name| number(name) == Some(call.number));
        let args = rule.args().as_deref().unwrap_or_default();
        if names_it && args.iter().all(|arg| holds(arg, call)) {
            return value(rule.action(), rule.errno_ret());
        }
    }
    let refuses = !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog);
    if refuses && newest.is_some_and(|newest| call.number > newest) {
        return ENOSYS;
    }
    default
}

fn holds(arg: &LinuxSeccompArg, call: &Call) -> bool {
    let (given, wanted) = (call.args[arg.index()], arg.value());
    match arg.op() {
        Op::ScmpCmpNe => given != wanted,
        Op::ScmpCmpLt => given < wanted,
        Op::ScmpCmpLe => given <= wanted,
        Op::ScmpCmpEq => given == wanted,
        Op::ScmpCmpGe => given >= wanted,
        Op::ScmpCmpGt => given > wanted,
        Op::ScmpCmpMaskedEq => given & wanted == arg.value_two().unwrap_or(0),
    }
}

fn value(action: Action, data: Option<u32>) -> u32 {
    match action {
        Action::ScmpActErrno => errno(data.unwrap_or(1)),
        Action::ScmpActTrace => 0x7ff0_0000 | data.unwrap_or(1),
        other => other.as_u32(None),
    }
}
