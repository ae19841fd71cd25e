//! Reading profiles from text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod support;

use std::collections::BTreeSet;

use oci_spec::runtime::{Arch, LinuxSeccomp};
use seccomp::{Error, Host, MAX_PROFILE_BYTES, Machine, read_profile};
use serde_json::json;

fn read(text: &str, capabilities: &[&str]) -> Result<LinuxSeccomp, Error> {
    let capabilities = capabilities.iter().copied().collect();
    read_profile(
        text.as_bytes(),
        &Host { machine: Machine::X86_64, kernel: (6, 1), capabilities: &capabilities },
    )
}

fn names(profile: &LinuxSeccomp) -> BTreeSet<String> {
    profile.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
}

#[test]
fn oci_form() {
    let text = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "comment": "passed over",
        "syscalls": [
            { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args":
                [{ "index": 0, "value": 38, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] },
        ],
    });
    let profile = read(&text.to_string(), &[]).unwrap();
    assert_eq!(profile.default_errno_ret(), Some(38));
    assert_eq!(profile.architectures().as_deref(), Some(&[Arch::ScmpArchX86_64][..]));
    assert_eq!(profile.syscalls().as_ref().unwrap()[1].errno_ret(), Some(97));
    assert_eq!(names(&profile).len(), 3);
}

#[test]
fn docker_form_depends_on_the_host() {
    let allow = |name: &str, more: serde_json::Value| {
        let mut rule = json!({ "names": [name], "action": "SCMP_ACT_ALLOW" });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let text = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
        ],
        "syscalls": [
            { "name": "read", "action": "SCMP_ACT_ALLOW" },
            allow("mount", json!({ "includes": { "caps": ["CAP_SYS_ADMIN"] } })),
            allow("clone", json!({ "excludes": { "caps": ["CAP_SYS_ADMIN"], "arches": ["s390x"] } })),
            allow("arch_prctl", json!({ "includes": { "arches": ["amd64", "x32"] } })),
            allow("cacheflush", json!({ "includes": { "arches": ["arm64"] } })),
            allow("ptrace", json!({ "includes": { "minKernel": "4.8" } })),
            allow("bpf", json!({ "includes": { "minKernel": "6.2" } })),
            allow("stat", json!({ "excludes": { "minKernel": "6.1" } })),
            allow("open", json!({ "includes": {}, "excludes": {} })),
        ],
    })
    .to_string();
    let plain = read(&text, &[]).unwrap();
    let wanted: Vec<&str> = vec!["arch_prctl", "clone", "open", "ptrace", "read"];
    assert!(names(&plain).iter().eq(&wanted), "{:?}", names(&plain));
    let arches = [Arch::ScmpArchX86_64, Arch::ScmpArchX86];
    assert_eq!(plain.architectures().as_deref(), Some(&arches[..]));
    let admin = read(&text, &["CAP_SYS_ADMIN"]).unwrap();
    let wanted: Vec<&str> = vec!["arch_prctl", "mount", "open", "ptrace", "read"];
    assert!(names(&admin).iter().eq(&wanted), "{:?}", names(&admin));
}

#[test]
fn wrong_profiles_are_refused() {
    type Check = fn(&Error) -> bool;
    let rule = |rule: serde_json::Value| {
        json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule] }).to_string()
    };
    let both = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64" }],
    });
    let rules = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": vec![json!({ "name": "read", "action": "SCMP_ACT_ALLOW" }); 4097],
    });
    let cases: Vec<(String, Check)> = vec![
        (String::new(), |e| matches!(e, Error::Syntax { .. })),
        ("{}".to_owned(), |e| matches!(e, Error::Syntax { .. })),
        ("[".repeat(100_000), |e| matches!(e, Error::Syntax { .. })),
        (" ".repeat(MAX_PROFILE_BYTES + 1), |e| matches!(e, Error::TooLarge { .. })),
        (rule(json!({ "names": [], "action": "SCMP_ACT_ALLOW" })), |e| {
            matches!(e, Error::RuleNames { index: 0 })
        }),
        (rule(json!({ "name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW" })), |e| {
            matches!(e, Error::RuleNames { index: 0 })
        }),
        (rule(json!({ "name": "read", "action": "SCMP_ACT_SHRUG" })), |e| {
            matches!(e, Error::Syntax { .. })
        }),
        (rule(json!({ "name": "read", "action": "SCMP_ACT_NOTIFY" })), |e| {
            matches!(e, Error::NotifyUnsupported { .. })
        }),
        (
            rule(
                json!({ "name": "read", "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "six" } }),
            ),
            |e| matches!(e, Error::KernelVersion { .. }),
        ),
        (both.to_string(), |e| matches!(e, Error::TwoArchitectureLists)),
        (rules.to_string(), |e| matches!(e, Error::TooMany { what: "rules", .. })),
    ];
    for (text, wanted) in cases {
        let error = read(&text, &[]).unwrap_err();
        assert!(wanted(&error), "{error:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(
        text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        value in proptest::prelude::any::<u64>(),
        name in "[a-z_0-9]{0,12}",
    ) {
        let none = BTreeSet::new();
        let host = Host { machine: Machine::X86_64, kernel: (6, 1), capabilities: &none };
        let _any = read_profile(&text, &host);
        let args = json!([{ "index": value % 9, "value": value, "op": "SCMP_CMP_GT" }]);
        let rule = json!({ "names": [name, "read"], "action": "SCMP_ACT_ERRNO", "errnoRet": value % 70_000, "args": args });
        let profile = json!({ "defaultAction": "SCMP_ACT_KILL", "syscalls": [rule] }).to_string();
        let _any = read_profile(profile.as_bytes(), &host);
    }
}
