//! Resource limits of a container's processes (getrlimit(2)).
//!
//! They are the runtime's own defaults, never what the daemon happens to run with, and what
//! the pod's annotation [`RLIMITS_ANNOTATION`] says instead. The CRI has no field for them.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::{
    SpecError, SpecInput,
    text::{check_count, shown},
};

/// The annotation of a pod, or of one container, that sets limits: `nofile=1024:4096,core=0`.
/// Of a pod's, `io.corten.rlimits/NAME` is for the container of that name alone.
pub const RLIMITS_ANNOTATION: &str = "io.corten.rlimits";

/// How many limits a text may have: more than there are.
const MAX_LIMITS: usize = 32;

/// `RLIM_INFINITY`.
const UNLIMITED: u64 = u64::MAX;

/// What a container has that asks for nothing: the soft and the hard limit.
///
/// Those of open files are systemd's: a low soft one, as programs that loop over all
/// descriptors need, and a hard one that programs may go up to.
const DEFAULTS: [(PosixRlimitType, u64, u64); 9] = [
    (PosixRlimitType::RlimitAs, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitCore, 0, UNLIMITED),
    (PosixRlimitType::RlimitCpu, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitData, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitFsize, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitMemlock, 8 << 20, 8 << 20),
    (PosixRlimitType::RlimitNofile, 1024, 524_288),
    (PosixRlimitType::RlimitNproc, UNLIMITED, UNLIMITED),
    (PosixRlimitType::RlimitStack, 8 << 20, UNLIMITED),
];

/// Limits that whoever writes a pod may set. Priorities are not among them.
const BY_ANNOTATION: [(&str, PosixRlimitType); 12] = [
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// The runtime's own limits.
pub fn default_rlimits() -> Vec<PosixRlimit> {
    DEFAULTS.iter().map(|(typ, soft, hard)| limit(*typ, *soft, *hard)).collect()
}

/// Reads limits: `NAME=SOFT:HARD` or `NAME=BOTH`, with commas between them; `unlimited` is no
/// limit.
///
/// # Errors
/// A name is not known, a value is none, or a soft limit is above its hard one.
pub fn parse_rlimits(text: &str) -> Result<Vec<PosixRlimit>, SpecError> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    check_count("resource limits", parts.len(), MAX_LIMITS)?;
    parts.into_iter().map(parse_one).collect()
}

/// The defaults, with what the pod says and then what the container says in their place.
pub(crate) fn rlimits(input: &SpecInput<'_>) -> Result<Vec<PosixRlimit>, SpecError> {
    let mut all: BTreeMap<String, PosixRlimit> = BTreeMap::new();
    let mut take = |limits: Vec<PosixRlimit>| {
        all.extend(limits.into_iter().map(|limit| (limit.typ().to_string(), limit)));
    };
    take(input.rlimits.to_vec());
    let name = &input.container.metadata.name;
    let pods = &input.sandbox.annotations;
    let own = &input.container.annotations;
    for text in [
        pods.get(RLIMITS_ANNOTATION),
        pods.get(&format!("{RLIMITS_ANNOTATION}/{name}")),
        own.get(RLIMITS_ANNOTATION),
    ] {
        take(text.map(|text| parse_rlimits(text)).transpose()?.unwrap_or_default());
    }
    Ok(all.into_values().collect())
}

fn parse_one(part: &str) -> Result<PosixRlimit, SpecError> {
    let wrong = || SpecError::Rlimit { text: shown(part) };
    let (name, value) = part.split_once('=').ok_or_else(wrong)?;
    let known = BY_ANNOTATION.iter().find(|(known, _)| *known == name.trim());
    let (_, typ) = known.ok_or_else(wrong)?;
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let (soft, hard) = (number(soft).ok_or_else(wrong)?, number(hard).ok_or_else(wrong)?);
    if soft > hard {
        return Err(wrong());
    }
    Ok(limit(*typ, soft, hard))
}

fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "unlimited" | "-1" => Some(UNLIMITED),
        text => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())),
    }
}

fn limit(typ: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build()
        .expect("all three fields of a limit are set")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_nonsense_is_not() {
        let limits = parse_rlimits("nofile=2048:4096, core=0,memlock=unlimited").unwrap();
        let values: Vec<_> =
            limits.iter().map(|l| (l.typ().to_string(), l.soft(), l.hard())).collect();
        assert_eq!(
            values,
            [
                ("RLIMIT_NOFILE".to_owned(), 2048, 4096),
                ("RLIMIT_CORE".to_owned(), 0, 0),
                ("RLIMIT_MEMLOCK".to_owned(), UNLIMITED, UNLIMITED),
            ]
        );
        assert!(parse_rlimits("").unwrap().is_empty());
        for bad in [
            "nofile",
            "nofile=",
            "nofile=x",
            "nofile=+1",
            "nofile=2:1",
            "nofile=unlimited:1",
            "nice=1",
            "rtprio=99",
            "nofile=1:2:3",
            "=1",
            "nofile=99999999999999999999",
        ] {
            assert!(parse_rlimits(bad).is_err(), "{bad}");
        }
        assert!(parse_rlimits(&"core=0,".repeat(MAX_LIMITS + 1)).is_err());
    }
}
