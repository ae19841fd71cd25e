//! Which capabilities a container has.

use std::{collections::BTreeSet, str::FromStr};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use types::ContainerSecurity;

use crate::{
    SpecError,
    text::{check_count, shown},
};

/// What a container has that asks for nothing: containerd's default.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// How many names one of the request's lists may have: more than there are capabilities.
pub const MAX_CAPABILITY_NAMES: usize = 256;

/// The sets of a container: what it may ever have, and what its programs inherit.
pub(crate) struct Granted {
    /// Bounding, effective and permitted.
    all: BTreeSet<String>,
    ambient: BTreeSet<String>,
}

impl Granted {
    /// Settles the sets. `ALL` is taken first, so that names beside it still count; a drop
    /// wins over an add. What is meant by `ALL`, by the default or by "privileged" ends at
    /// what the node has; what is asked for by name is there or an error.
    pub(crate) fn of(
        security: &ContainerSecurity,
        host: &BTreeSet<String>,
    ) -> Result<Self, SpecError> {
        let asked = &security.capabilities;
        let add = names(&asked.add)?;
        let drop = names(&asked.drop)?;
        let ambient = names(&asked.add_ambient)?;
        // Names that only a newer kernel has mean nothing to a spec.
        let host: BTreeSet<String> =
            host.iter().filter(|name| capability(name).is_some()).cloned().collect();
        let mut all = if security.privileged || add.all {
            host.clone()
        } else {
            DEFAULT.iter().map(|cap| full_name(*cap)).filter(|cap| host.contains(cap)).collect()
        };
        if !security.privileged {
            if drop.all {
                all.clear();
            }
            for name in add.each.iter().chain(&ambient.each) {
                if !host.contains(name) && !drop.each.contains(name) {
                    return Err(SpecError::CapabilityUnavailable { name: name.clone() });
                }
                all.insert(name.clone());
            }
            all.retain(|name| !drop.each.contains(name));
        }
        let ambient = if ambient.all { all.clone() } else { ambient.each };
        let ambient = ambient.intersection(&all).cloned().collect();
        Ok(Self { all, ambient })
    }

    /// The names, with `CAP_`.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.all.iter().map(String::as_str).collect()
    }

    /// The sets of a spec. Inheritable holds what ambient needs and nothing else: a set of
    /// its own would give files' inheritable capabilities to everybody.
    pub(crate) fn to_spec(&self) -> LinuxCapabilities {
        let set = |names: &BTreeSet<String>| -> Capabilities {
            names.iter().filter_map(|name| capability(name)).collect()
        };
        let mut capabilities = LinuxCapabilities::default();
        capabilities.set_bounding(Some(set(&self.all)));
        capabilities.set_effective(Some(set(&self.all)));
        capabilities.set_permitted(Some(set(&self.all)));
        capabilities.set_inheritable(Some(set(&self.ambient)));
        capabilities.set_ambient(Some(set(&self.ambient)));
        capabilities
    }
}

/// Returns the bounding set that a container will have: names with `CAP_`. A profile that
/// depends on capabilities is read with it ([`seccomp::Host`]).
///
/// # Errors
///
/// A capability is not known, or not there.
pub fn bounding_set(
    security: &ContainerSecurity,
    host: &BTreeSet<String>,
) -> Result<BTreeSet<String>, SpecError> {
    Granted::of(security, host).map(|granted| granted.all)
}

/// One of the request's lists.
struct Names {
    all: bool,
    each: BTreeSet<String>,
}

fn names(list: &[String]) -> Result<Names, SpecError> {
    check_count("capabilities", list.len(), MAX_CAPABILITY_NAMES)?;
    let mut names = Names { all: false, each: BTreeSet::new() };
    for name in list {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            names.all = true;
            continue;
        }
        let known =
            capability(&upper).ok_or_else(|| SpecError::UnknownCapability { name: shown(name) })?;
        names.each.insert(full_name(known));
    }
    Ok(names)
}

/// The capability of a name with or without `CAP_`.
fn capability(name: &str) -> Option<Capability> {
    Capability::from_str(name.strip_prefix("CAP_").unwrap_or(name)).ok()
}

fn full_name(capability: Capability) -> String {
    format!("CAP_{capability}")
}
