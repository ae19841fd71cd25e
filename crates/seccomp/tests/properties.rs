//! Compiled filters against a second reading of arbitrary profiles.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Op, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;
use seccomp::{Machine, compile_for};
use support::{AARCH64, Call, I386, X86_64, check, judge, run};

/// Names without the multiplexed ones, whose twins the judge does not know.
const NAMES: [&str; 16] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "ioctl",
    "clone",
    "personality",
    "fchmodat2",
    "clone3",
    "exit",
    "chown32",
    "arch_prctl",
    "mseal",
    "no_such_call",
    "mmap",
];

/// Values near each other and on both sides of the 32-bit border, so that they meet.
const VALUES: [u64; 9] =
    [0, 1, 2, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x2_0000_0001, u64::MAX - 1, u64::MAX];

fn action() -> impl Strategy<Value = Action> {
    prop::sample::select(vec![
        Action::ScmpActAllow,
        Action::ScmpActErrno,
        Action::ScmpActKill,
        Action::ScmpActKillProcess,
        Action::ScmpActTrap,
        Action::ScmpActTrace,
        Action::ScmpActLog,
    ])
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(VALUES.to_vec()), 1 => any::<u64>()]
}

fn condition() -> impl Strategy<Value = LinuxSeccompArg> {
    let operator = prop::sample::select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ]);
    (0_usize..3, value(), value(), operator).prop_map(|(index, value, second, op)| {
        let arg = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
        arg.value_two(second).build().unwrap()
    })
}

fn rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..6);
    (names, action(), 1_u32..4000, prop::collection::vec(condition(), 0..4)).prop_map(
        |(names, action, errno, args)| {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            let rule = LinuxSyscallBuilder::default().names(names).action(action);
            rule.errno_ret(errno).args(args).build().unwrap()
        },
    )
}

fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let rules = prop_oneof![
        4 => prop::collection::vec(rule(), 0..12),
        1 => prop::collection::vec(rule(), 40..60),
    ];
    (action(), any::<bool>(), rules).prop_map(|(default, i386, rules)| {
        let arches = if i386 { vec![Arch::ScmpArchX86] } else { vec![] };
        let profile = LinuxSeccompBuilder::default().default_action(default);
        profile.architectures(arches).syscalls(rules).build().unwrap()
    })
}

fn call() -> impl Strategy<Value = Call> {
    let arch = prop::sample::select(vec![X86_64, X86_64, I386, AARCH64, 0]);
    let number = prop_oneof![8 => 0_u32..470, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    (arch, number, prop::collection::vec(value(), 3))
        .prop_map(|(arch, number, args)| Call::new(arch, number, &args))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn a_filter_does_what_its_profile_says(
        profile in profile(),
        calls in prop::collection::vec(call(), 40),
    ) {
        let program = compile_for(Machine::X86_64, &profile).unwrap();
        check(program.instructions());
        for call in calls {
            // The calls that the rules name, beside arbitrary ones.
            for number in [0, 1, 2, 3, 4, 16, 56, 135, 452, 435, 158, 462, call.number] {
                let call = Call { number, ..call };
                prop_assert_eq!(run(program.instructions(), &call), judge(&profile, &call), "{:x?}", call);
            }
        }
    }
}
