//! The resource limits that every container starts from, as far as this machine allows them.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use rustix::process::Resource;
use tracing::info;

use crate::error::{Error, Result};

/// The runtime's own limits, with what is configured in their place. What is above the hard
/// limits of this process, where it may not raise them, is clamped once and logged here: not
/// at every start.
///
/// # Errors
/// A configured limit is none.
pub fn container_rlimits(configured: &BTreeMap<String, String>) -> Result<Vec<PosixRlimit>> {
    let mut all = container_spec::default_rlimits();
    for (name, value) in configured {
        let text = format!("{name}={value}");
        let limits = container_spec::parse_rlimits(&text)
            .map_err(|error| Error::Invalid(format!("containers.rlimits: {error}")))?;
        for limit in limits {
            all.retain(|known| known.typ() != limit.typ());
            all.push(limit);
        }
    }
    if !may_raise() {
        all.iter_mut().for_each(clamp);
    }
    Ok(all)
}

fn may_raise() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

fn clamp(limit: &mut PosixRlimit) {
    let Some(resource) = resource(limit.typ()) else { return };
    let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    if limit.hard() > hard {
        info!(limit = %limit.typ(), "containers have at most {hard}: more is not permitted here");
        let soft = limit.soft().min(hard);
        let clamped = PosixRlimitBuilder::default().typ(limit.typ()).soft(soft).hard(hard).build();
        if let Ok(clamped) = clamped {
            *limit = clamped;
        }
    }
}

fn resource(typ: PosixRlimitType) -> Option<Resource> {
    Some(match typ {
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitNice
        | PosixRlimitType::RlimitRss
        | PosixRlimitType::RlimitRtprio
        | PosixRlimitType::RlimitRttime => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_limits_take_the_place_of_the_runtimes_own() {
        let configured = BTreeMap::from([("nofile".to_owned(), "100:200".to_owned())]);
        let all = container_rlimits(&configured).unwrap();
        let files: Vec<_> =
            all.iter().filter(|l| l.typ() == PosixRlimitType::RlimitNofile).collect();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].soft(), files[0].hard()), (100, 200));
        for (name, value) in [("nofile", "x"), ("colour", "1")] {
            let bad = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert!(container_rlimits(&bad).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn nothing_is_above_what_may_be_set() {
        for limit in container_rlimits(&BTreeMap::new()).unwrap() {
            assert!(limit.soft() <= limit.hard(), "{}", limit.typ());
        }
    }
}
