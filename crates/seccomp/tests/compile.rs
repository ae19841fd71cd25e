//! What compiled filters do, by an interpreter.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use oci_spec::runtime::LinuxSeccomp;
use seccomp::{Error, Machine, Program, compile_for};
use serde_json::json;
use support::{
    AARCH64, ALLOW, ARM, Call, ENOSYS, EPERM, I386, KILL_PROCESS, KILL_THREAD, LOG, TRAP, X86_64,
    check, errno, run,
};

const ALL_X86: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];

fn profile(default: &str, syscalls: serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(
        json!({ "defaultAction": default, "architectures": ALL_X86, "syscalls": syscalls }),
    )
    .unwrap()
}

fn compiled(profile: &LinuxSeccomp) -> Program {
    let program = compile_for(Machine::X86_64, profile).unwrap();
    check(program.instructions());
    program
}

fn rule(names: &[&str], action: &str, args: serde_json::Value) -> serde_json::Value {
    json!({ "names": names, "action": action, "args": args })
}

#[test]
fn each_convention_has_its_own_numbers() {
    let profile = profile(
        "SCMP_ACT_ERRNO",
        json!([rule(&["read", "fchmodat2"], "SCMP_ACT_ALLOW", json!([]))]),
    );
    let program = compiled(&profile);
    for (arch, number, wanted) in [
        (X86_64, 0, ALLOW),
        (X86_64, 3, EPERM),
        (X86_64, 452, ALLOW),
        (X86_64, 453, ENOSYS),
        (X86_64, 9999, ENOSYS),
        (X86_64, u32::MAX, ENOSYS),
        (X86_64, 0x4000_0000, ALLOW),
        (X86_64, 0x4000_0003, EPERM),
        (X86_64, 0x4000_0000 + 453, ENOSYS),
        (I386, 3, ALLOW),
        (I386, 0, EPERM),
        (I386, 453, ENOSYS),
        (I386, 0x4000_0000, ENOSYS),
        (AARCH64, 63, KILL_PROCESS),
        (0, 0, KILL_PROCESS),
    ] {
        let call = Call::new(arch, number, &[]);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn conventions_that_are_not_named_kill() {
    let profile: LinuxSeccomp =
        serde_json::from_value(json!({ "defaultAction": "SCMP_ACT_ALLOW" })).unwrap();
    let program = compiled(&profile);
    for (arch, number, wanted) in [
        (X86_64, 0, ALLOW),
        (X86_64, 100_000, ALLOW),
        (X86_64, u32::MAX, ALLOW),
        (X86_64, 0x4000_0000, KILL_PROCESS),
        (I386, 3, KILL_PROCESS),
    ] {
        let call = Call::new(arch, number, &[]);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn aarch64_and_arm() {
    let profile: LinuxSeccomp = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "syscalls": [rule(&["read", "set_tls", "openat2", "newfstatat"], "SCMP_ACT_ALLOW", json!([]))],
    }))
    .unwrap();
    let program = compile_for(Machine::Aarch64, &profile).unwrap();
    check(program.instructions());
    for (arch, number, wanted) in [
        (AARCH64, 63, ALLOW),
        (AARCH64, 79, ALLOW),
        (AARCH64, 438, ENOSYS),
        (AARCH64, 436, EPERM),
        (ARM, 3, ALLOW),
        (ARM, 4, EPERM),
        (ARM, 438, ENOSYS),
        (ARM, 0xf_0005, ALLOW),
        (ARM, 0xf_0006, ENOSYS),
        (X86_64, 0, KILL_PROCESS),
    ] {
        let call = Call::new(arch, number, &[]);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn every_operator_compares_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    let values = [
        0,
        4,
        5,
        6,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0004,
        BIG,
        BIG + 1,
        0x2_0000_0005,
        u64::MAX,
    ];
    type Compare = fn(u64, u64) -> bool;
    let operators: [(&str, Compare); 6] = [
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_GE", |a, b| a >= b),
        ("SCMP_CMP_GT", |a, b| a > b),
    ];
    for (operator, compare) in operators {
        for wanted in values {
            let condition = json!([{ "index": 5, "value": wanted, "op": operator }]);
            let profile =
                profile("SCMP_ACT_TRAP", json!([rule(&["read"], "SCMP_ACT_LOG", condition)]));
            let program = compiled(&profile);
            for given in values {
                let call = Call::new(X86_64, 0, &[7, 7, 7, 7, 7, given]);
                let expected = if compare(given, wanted) { LOG } else { TRAP };
                assert_eq!(
                    run(program.instructions(), &call),
                    expected,
                    "{given} {operator} {wanted}"
                );
            }
        }
    }
}

#[test]
fn masked_comparison() {
    for (mask, equal, given, matches) in [
        (0xf0_u64, 0x10_u64, 0x1f_u64, true),
        (0xf0, 0x10, 0x2f, false),
        (0xf0, 0x11, 0x11, false),
        (0xf_0000_0000, 0x1_0000_0000, 0x71_1234_5678, true),
        (0xf_0000_0000, 0x1_0000_0000, 0x72_1234_5678, false),
        (0xffff_ffff, 38, 0x1_0000_0026, true),
        (0, 0, u64::MAX, true),
        (u64::MAX, u64::MAX, u64::MAX, true),
    ] {
        let condition =
            json!([{ "index": 0, "value": mask, "valueTwo": equal, "op": "SCMP_CMP_MASKED_EQ" }]);
        let profile =
            profile("SCMP_ACT_ERRNO", json!([rule(&["read"], "SCMP_ACT_ALLOW", condition)]));
        let expected = if matches { ALLOW } else { EPERM };
        let call = Call::new(X86_64, 0, &[given]);
        assert_eq!(run(compiled(&profile).instructions(), &call), expected, "{mask:x} {given:x}");
    }
}

#[test]
fn the_first_rule_that_holds_decides() {
    let is = |value: u64| json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]);
    let profile = profile(
        "SCMP_ACT_ERRNO",
        json!([
            rule(&["socket"], "SCMP_ACT_KILL_PROCESS", is(40)),
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": is(38) },
            rule(&["socket"], "SCMP_ACT_ALLOW", json!([])),
            rule(&["socket"], "SCMP_ACT_KILL", json!([])),
            rule(&["bind"], "SCMP_ACT_KILL_THREAD", json!(null)),
        ]),
    );
    let program = compiled(&profile);
    for (number, argument, wanted) in
        [(41, 40, KILL_PROCESS), (41, 38, errno(97)), (41, 2, ALLOW), (49, 0, KILL_THREAD)]
    {
        let call = Call::new(X86_64, number, &[argument]);
        assert_eq!(run(program.instructions(), &call), wanted, "{call:x?}");
    }
}

#[test]
fn conditions_of_a_rule_must_all_hold_even_on_one_argument() {
    let neither = json!([
        { "index": 0, "value": 38, "op": "SCMP_CMP_NE" },
        { "index": 0, "value": 40, "op": "SCMP_CMP_NE" },
        { "index": 1, "value": 1, "op": "SCMP_CMP_EQ" },
    ]);
    let profile = profile("SCMP_ACT_ERRNO", json!([rule(&["socket"], "SCMP_ACT_ALLOW", neither)]));
    let program = compiled(&profile);
    for (args, wanted) in
        [([38, 1], EPERM), ([40, 1], EPERM), ([39, 1], ALLOW), ([39, 2], EPERM), ([2, 1], ALLOW)]
    {
        let call = Call::new(X86_64, 41, &args);
        assert_eq!(run(program.instructions(), &call), wanted, "{args:?}");
    }
}

#[test]
fn a_denied_call_is_denied_by_its_multiplexer_too() {
    let is_alg = json!([{ "index": 0, "value": 38, "op": "SCMP_CMP_EQ" }]);
    let deny = profile(
        "SCMP_ACT_ALLOW",
        json!([
            rule(&["socket"], "SCMP_ACT_ERRNO", is_alg),
            rule(&["shmget"], "SCMP_ACT_ERRNO", json!([]))
        ]),
    );
    let allow = profile(
        "SCMP_ACT_ERRNO",
        json!([
            rule(&["bind"], "SCMP_ACT_ALLOW", json!([])),
            rule(
                &["socket"],
                "SCMP_ACT_ALLOW",
                json!([{ "index": 0, "value": 38, "op": "SCMP_CMP_NE" }])
            ),
        ]),
    );
    for (profile, number, code, wanted) in [
        (&deny, 102, 1, EPERM),
        (&deny, 102, 2, ALLOW),
        (&deny, 117, 23, EPERM),
        (&deny, 117, 22, ALLOW),
        (&allow, 102, 2, ALLOW),
        (&allow, 102, 1, EPERM),
    ] {
        let call = Call::new(I386, number, &[code]);
        assert_eq!(run(compiled(profile).instructions(), &call), wanted, "{call:?}");
    }
}

#[test]
fn an_old_default_of_enosys_or_log_has_no_ceiling() {
    for default in ["SCMP_ACT_LOG", "SCMP_ACT_ALLOW"] {
        let profile = profile(default, json!([rule(&["read"], "SCMP_ACT_TRAP", json!([]))]));
        let program = compiled(&profile);
        assert_eq!(run(program.instructions(), &Call::new(X86_64, 0, &[])), TRAP);
        assert_ne!(run(program.instructions(), &Call::new(X86_64, 900, &[])), ENOSYS);
    }
}

#[test]
fn jumps_longer_than_a_byte_reach_their_place() {
    // 60 calls with chains of 12 instructions and more: far more than 255 in all.
    let names: Vec<&str> =
        (0..60).map(|id| syscalls::x86_64::Sysno::new(id).unwrap().name()).collect();
    let rules: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let conditions = json!([
                { "index": 0, "value": 0x1_0000_0000_u64 + at as u64, "op": "SCMP_CMP_EQ" },
                { "index": 1, "value": at, "op": "SCMP_CMP_LE" },
            ]);
            json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 100 + at, "args": conditions })
        })
        .collect();
    let program = compiled(&profile("SCMP_ACT_ERRNO", json!(rules)));
    assert!(program.instructions().len() > 600);
    for at in 0..60_u32 {
        let args = [0x1_0000_0000 + u64::from(at), u64::from(at)];
        assert_eq!(run(program.instructions(), &Call::new(X86_64, at, &args)), errno(100 + at));
        let args = [0x1_0000_0000 + u64::from(at), u64::from(at) + 1];
        assert_eq!(run(program.instructions(), &Call::new(X86_64, at, &args)), EPERM);
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let many: Vec<_> = (0..600_u64)
        .map(|at| {
            rule(
                &["read"],
                "SCMP_ACT_ALLOW",
                json!([{ "index": 0, "value": at << 32 | 7, "op": "SCMP_CMP_EQ" }]),
            )
        })
        .collect();
    let names = vec!["read"; seccomp::MAX_NAMES + 1];
    let conditions =
        vec![json!({ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }); seccomp::MAX_CONDITIONS + 1];
    type Check = fn(&Error) -> bool;
    let errors: [(LinuxSeccomp, Check); 7] = [
        (profile("SCMP_ACT_NOTIFY", json!([])), |e| matches!(e, Error::NotifyUnsupported { .. })),
        (
            profile("SCMP_ACT_ALLOW", json!([rule(&["read"], "SCMP_ACT_NOTIFY", json!([]))])),
            |e| matches!(e, Error::NotifyUnsupported { place } if place == "read"),
        ),
        (
            profile(
                "SCMP_ACT_ALLOW",
                json!([{ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536 }]),
            ),
            |e| matches!(e, Error::ReturnValue { value: 65536, limit: 4095, .. }),
        ),
        (
            profile(
                "SCMP_ACT_ALLOW",
                json!([rule(
                    &["read"],
                    "SCMP_ACT_TRAP",
                    json!([{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }])
                )]),
            ),
            |e| matches!(e, Error::ArgumentIndex { index: 6, .. }),
        ),
        (profile("SCMP_ACT_ERRNO", json!(many)), |e| matches!(e, Error::TooLong { .. })),
        (profile("SCMP_ACT_ERRNO", json!([rule(&names, "SCMP_ACT_ALLOW", json!([]))])), |e| {
            matches!(e, Error::TooMany { .. })
        }),
        (
            profile(
                "SCMP_ACT_ERRNO",
                json!([rule(&["read"], "SCMP_ACT_ALLOW", json!(conditions))]),
            ),
            |e| matches!(e, Error::TooMany { .. }),
        ),
    ];
    for (profile, wanted) in errors {
        let error = compile_for(Machine::X86_64, &profile).unwrap_err();
        assert!(wanted(&error), "{error:?}");
    }
}

#[test]
fn flags_are_the_kernels() {
    for (flags, wanted) in [
        (json!(null), 4),
        (json!([]), 0),
        (json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]), 3),
        (json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]), 4),
    ] {
        let profile: LinuxSeccomp =
            serde_json::from_value(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags }))
                .unwrap();
        assert_eq!(compiled(&profile).flags(), wanted, "{flags}");
    }
}

#[test]
fn unknown_names_are_passed_over() {
    let names = ["no_such_call", "read", ""];
    let profile = profile("SCMP_ACT_ERRNO", json!([rule(&names, "SCMP_ACT_ALLOW", json!([]))]));
    assert_eq!(run(compiled(&profile).instructions(), &Call::new(X86_64, 0, &[])), ALLOW);
}
