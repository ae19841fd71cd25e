//! Resource limits and the OOM score, clamped to what this machine allows.

use std::fs;
use std::io;

use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::process::{Resource, Rlimit};

use crate::Step;
use crate::channel::Voice;
use crate::step::{Done, During};

const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Sets the OOM score by the host's `/proc`; one that is not allowed leaves the present one.
pub(crate) fn set_oom_score(wanted: Option<i32>, voice: &Voice) -> Done {
    let Some(wanted) = wanted else { return Ok(()) };
    match fs::write(OOM_SCORE, wanted.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let kept = fs::read_to_string(OOM_SCORE).during_on(
                Step::Limits,
                "failed to read",
                OOM_SCORE,
            )?;
            voice.notice(&format!(
                "oom_score_adj {wanted} is not allowed here, {} is kept",
                kept.trim()
            ));
            Ok(())
        }
        result => result.during(Step::Limits, &format!("failed to set oom_score_adj {wanted}")),
    }
}

/// Raises hard limits as far as the limits of the process need, while that is allowed: in a user
/// namespace it no longer is. What stays too low is told where the limits are set.
pub(crate) fn raise_hard(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource_of(limit.typ());
        let have = rustix::process::getrlimit(resource);
        let wanted = finite(limit.hard());
        if have.maximum.is_some_and(|have| wanted.is_none_or(|wanted| wanted > have)) {
            let raised = Rlimit { current: have.current, maximum: wanted };
            let _ = rustix::process::setrlimit(resource, raised);
        }
    }
}

/// Sets the limits of the process; a hard limit that cannot be raised is kept.
pub(crate) fn set_rlimits(process: &Process, voice: &Voice) -> Done {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource_of(limit.typ());
        let wanted = Rlimit { current: finite(limit.soft()), maximum: finite(limit.hard()) };
        match rustix::process::setrlimit(resource, wanted) {
            Err(rustix::io::Errno::PERM) => {
                let allowed = clamped(wanted, rustix::process::getrlimit(resource));
                rustix::process::setrlimit(resource, allowed)
                    .during(Step::Limits, &format!("failed to set {}", limit.typ()))?;
                voice.notice(&format!(
                    "{} {} is above the hard limit here and was clamped",
                    limit.typ(),
                    limit.hard()
                ));
            }
            result => {
                result.during(Step::Limits, &format!("failed to set {}", limit.typ()))?;
            }
        }
    }
    Ok(())
}

/// The kernel's "no limit" is all ones.
fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn clamped(wanted: Rlimit, have: Rlimit) -> Rlimit {
    let lower = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let maximum = lower(wanted.maximum, have.maximum);
    Rlimit { current: lower(wanted.current, maximum), maximum }
}

fn resource_of(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_clamped_to_the_hard_one() {
        let limit = |current, maximum| Rlimit { current, maximum };
        let have = limit(Some(10), Some(100));
        assert_eq!(clamped(limit(None, None), have), limit(Some(100), Some(100)));
        assert_eq!(clamped(limit(Some(50), Some(200)), have), limit(Some(50), Some(100)));
        let unlimited = limit(Some(10), None);
        assert_eq!(clamped(limit(Some(5), Some(7)), unlimited), limit(Some(5), Some(7)));
    }
}
