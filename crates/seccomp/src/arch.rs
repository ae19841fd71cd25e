//! Architectures: their system call numbers and how the kernel names them to a filter.

mod table;

use table::{CALLS, NONE};

/// The bit that marks an x32 call's number.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// The first of arm's private calls, far above all others.
pub(crate) const ARM_PRIVATE_BASE: u32 = 0x000f_0000;

/// A machine that a filter is made for: what the kernel runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86, with the x32 and the 32-bit calls beside its own.
    X86_64,
    /// 64-bit ARM, with the 32-bit calls beside its own.
    Aarch64,
}

impl Machine {
    /// Returns the machine that this program runs on, if there are tables for it.
    pub const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }
}

/// A calling convention: a set of numbers that programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64,
    X32,
    I386,
    Aarch64,
    Arm,
}

impl Abi {
    /// Returns the number of a call, or `None` if it has none here.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let row = CALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        let numbers = CALLS[row].1;
        match self {
            Self::X86_64 => known(numbers[0]),
            Self::X32 => x32_number(name, numbers[0]),
            Self::I386 => known(numbers[1]),
            Self::Aarch64 => known(numbers[2]),
            Self::Arm => known(numbers[3]),
        }
    }

    /// Returns how a call that has a number of its own is reached by a multiplexer too:
    /// the multiplexer's name and the first argument that selects the call there.
    ///
    /// Only i386 has such calls; a rule that knew only the direct ones could be walked
    /// round.
    pub(crate) fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        if self != Self::I386 {
            return None;
        }
        let find = |calls: &[&str]| calls.iter().position(|call| *call == name);
        if let Some(place) = find(&SOCKETCALLS) {
            return Some(("socketcall", place as u64 + 1));
        }
        IPC_CALLS.iter().find(|(call, _)| *call == name).map(|(_, code)| ("ipc", *code))
    }
}

/// What `socketcall(2)` multiplexes, in the order of its codes from 1 (`linux/net.h`).
const SOCKETCALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// What `ipc(2)` multiplexes (`linux/ipc.h`).
const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

/// The calls that x32 has numbers of its own for, from 512 on (`syscall_64.tbl`).
const X32_CALLS: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];

fn known(number: u32) -> Option<u32> {
    (number != NONE).then_some(number)
}

fn x32_number(name: &str, native: u32) -> Option<u32> {
    match X32_CALLS.iter().position(|call| *call == name) {
        Some(place) => u32::try_from(place).ok().map(|place| X32_BIT + 512 + place),
        None => known(native).map(|number| X32_BIT + number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(CALLS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn numbers_are_the_kernels() {
        for (abi, name, number) in [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "clone3", Some(435)),
            (Abi::X86_64, "socketcall", None),
            (Abi::X32, "read", Some(0x4000_0000)),
            (Abi::X32, "execve", Some(0x4000_0000 + 520)),
            (Abi::X32, "pwritev2", Some(0x4000_0000 + 547)),
            (Abi::I386, "read", Some(3)),
            (Abi::I386, "socketcall", Some(102)),
            (Abi::I386, "socket", Some(359)),
            (Abi::Aarch64, "newfstatat", Some(79)),
            (Abi::Aarch64, "open", None),
            (Abi::Arm, "set_tls", Some(0x000f_0005)),
            (Abi::Arm, "open", Some(5)),
            (Abi::X86_64, "no_such_call", None),
        ] {
            assert_eq!(abi.number(name), number, "{name} on {abi:?}");
        }
    }

    #[test]
    fn the_table_agrees_with_the_published_one() {
        for (name, numbers) in CALLS {
            let published: [Option<u32>; 4] = [
                name.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id().unsigned_abs()),
                name.parse::<syscalls::x86::Sysno>().ok().map(|call| call.id().unsigned_abs()),
                name.parse::<syscalls::aarch64::Sysno>().ok().map(|call| call.id().unsigned_abs()),
                name.parse::<syscalls::arm::Sysno>().ok().map(|call| call.id().unsigned_abs()),
            ];
            for (ours, published) in numbers.iter().zip(published) {
                if let (Some(ours), Some(published)) = (known(*ours), published) {
                    assert_eq!(ours, published, "{name}");
                }
            }
            // The publisher's aarch64 table has 32-bit calls that the kernel does not wire up.
            assert!(published[0].is_none_or(|_| numbers[0] != NONE), "{name}");
            assert!(published[1].is_none_or(|_| numbers[1] != NONE), "{name}");
            assert!(published[3].is_none_or(|_| numbers[3] != NONE), "{name}");
        }
    }
}
