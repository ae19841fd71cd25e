//! The profile of containers that ask for the runtime's default.
//!
//! An allow-list: what is not on it gets EPERM, what is newer than all of it ENOSYS. In
//! effect it is the default that Docker and containerd give on kernels since 5.0, so that
//! a program that runs under one of them runs here. Where the two differ from what they
//! mean to forbid, this one is the stricter: the kernel reads an address family from the
//! low 32 bits of a register, and so do the conditions here, whatever the others hold.
//!
//! The profile says the same thing to any OCI runtime, including those that take no
//! account of the order of rules: no call has both a rule that allows it always and
//! another.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::Machine;

/// What every container may call.
const ALWAYS: &str = "\
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget \
    capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres \
    clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
    fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown \
    fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr \
    fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list \
    get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 \
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid \
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr \
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl \
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount \
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise \
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod \
    mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink \
    mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
    recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp \
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 \
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat \
    shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn \
    socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink \
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
    unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid \
    waitpid write writev";

/// Calls of 32-bit ARM and of its 64-bit successor.
const ARM: &str = "\
    arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2";

/// Calls of x86.
const X86: &str = "arch_prctl modify_ldt";

/// Observing other processes. Since Linux 4.8 a tracer cannot lead its child past a filter.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// What a capability adds.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    ("CAP_SYSLOG", "syslog"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

/// The flags of clone(2) that make namespaces: user, mount, PID, network, IPC, UTS, cgroup.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// `personality(2)`: Linux, 32-bit, both with the uname of 2.6, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The address families that may be opened, as a mask over the family's 32 bits and what
/// must be left: all below 64 except AF_ALG (38), whose algorithms have led to the kernel's
/// page cache, and AF_VSOCK (40), which leads to the hypervisor past all namespaces.
/// Linux has none from 64 on.
const FAMILIES: [(u64, u64); 8] = [
    (0xffff_ffe0, 0),
    (0xffff_fffc, 32),
    (0xffff_fffe, 36),
    (0xffff_ffff, 39),
    (0xffff_ffff, 41),
    (0xffff_fffe, 42),
    (0xffff_fffc, 44),
    (0xffff_fff0, 48),
];

/// EPERM.
const EPERM: u32 = 1;
/// ENOSYS.
const ENOSYS: u32 = 38;

/// Makes the default profile for a container whose bounding set holds `capabilities`
/// (names with `CAP_`), on the machine that this program runs on.
pub fn runtime_default(capabilities: &BTreeSet<&str>) -> LinuxSeccomp {
    runtime_default_for(Machine::native(), capabilities)
}

/// Makes the default profile for a machine; `None` is one that there are no tables for.
pub fn runtime_default_for(
    machine: Option<Machine>,
    capabilities: &BTreeSet<&str>,
) -> LinuxSeccomp {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActErrno);
    profile.set_default_errno_ret(Some(EPERM));
    profile.set_architectures(Some(architectures(machine)));
    profile.set_syscalls(Some(syscalls(machine, capabilities)));
    profile
}

fn architectures(machine: Option<Machine>) -> Vec<Arch> {
    match machine {
        Some(Machine::X86_64) => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Some(Machine::Aarch64) => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        None => Vec::new(),
    }
}

fn syscalls(machine: Option<Machine>, capabilities: &BTreeSet<&str>) -> Vec<LinuxSyscall> {
    let of_machine = match machine {
        Some(Machine::X86_64) => X86,
        Some(Machine::Aarch64) => ARM,
        None => "",
    };
    let added = BY_CAPABILITY.iter().filter(|(name, _)| capabilities.contains(name));
    let mut names: Vec<&str> = [ALWAYS, TRACING, of_machine]
        .into_iter()
        .chain(added.map(|(_, calls)| *calls))
        .flat_map(str::split_ascii_whitespace)
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![allow(names, None)];
    rules.extend(PERSONALITIES.map(|value| {
        allow(vec!["personality"], Some(condition(Operator::ScmpCmpEq, value, None)))
    }));
    rules.extend(FAMILIES.map(|(mask, family)| {
        allow(vec!["socket"], Some(condition(Operator::ScmpCmpMaskedEq, mask, Some(family))))
    }));
    if !capabilities.contains("CAP_SYS_ADMIN") {
        let no_namespaces = condition(Operator::ScmpCmpMaskedEq, CLONE_NAMESPACES, Some(0));
        rules.push(allow(vec!["clone"], Some(no_namespaces)));
        // Its flags are in memory, where no filter looks; told that there is no such call,
        // C libraries use clone.
        let mut clone3 = allow(vec!["clone3"], None);
        clone3.set_action(Action::ScmpActErrno).set_errno_ret(Some(ENOSYS));
        rules.push(clone3);
    }
    rules
}

fn allow(names: Vec<&str>, condition: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect());
    rule.set_action(Action::ScmpActAllow);
    rule.set_args(condition.map(|condition| vec![condition]));
    rule
}

fn condition(operator: Operator, value: u64, second: Option<u64>) -> LinuxSeccompArg {
    let condition = LinuxSeccompArgBuilder::default().index(0_usize).op(operator).value(value);
    let condition = match second {
        Some(second) => condition.value_two(second),
        None => condition,
    };
    condition.build().expect("every field of a condition has a default")
}
