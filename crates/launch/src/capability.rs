//! Capability sets of the process, clamped to what the monitor itself may give. Pure.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::CapabilitySet;

/// The five sets as they will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sets {
    pub(crate) bounding: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) inheritable: CapabilitySet,
    pub(crate) ambient: CapabilitySet,
    /// What was asked for and is not available.
    pub(crate) clamped: CapabilitySet,
}

impl Sets {
    /// Computes what can be given; a process without a list gets no capability.
    pub(crate) fn of(
        wanted: Option<&LinuxCapabilities>,
        bounding: CapabilitySet,
        permitted: CapabilitySet,
    ) -> Self {
        let list = |get: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            let caps = wanted.and_then(|w| get(w).as_ref()).into_iter().flatten();
            caps.fold(CapabilitySet::empty(), |set, cap| set | bit(*cap))
        };
        let wants = Self {
            bounding: list(LinuxCapabilities::bounding),
            permitted: list(LinuxCapabilities::permitted),
            effective: list(LinuxCapabilities::effective),
            inheritable: list(LinuxCapabilities::inheritable),
            ambient: list(LinuxCapabilities::ambient),
            clamped: CapabilitySet::empty(),
        };
        let available = bounding & permitted;
        let permitted = wants.permitted & available;
        let inheritable = wants.inheritable & available;
        Self {
            bounding: wants.bounding & bounding,
            permitted,
            effective: wants.effective & permitted,
            inheritable,
            // The kernel allows no other.
            ambient: wants.ambient & permitted & inheritable,
            clamped: (wants.bounding | wants.permitted | wants.effective | wants.inheritable)
                - available,
        }
    }
}

/// The names in a set, for messages.
pub(crate) fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    names.join(", ")
}

fn bit(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    #[test]
    fn sets_are_clamped_and_ambient_needs_inheritable() {
        let all: Capabilities =
            [Capability::Chown, Capability::SysResource, Capability::NetRaw].into_iter().collect();
        let chown: Capabilities = [Capability::Chown].into_iter().collect();
        let wanted = LinuxCapabilitiesBuilder::default()
            .bounding(all.clone())
            .permitted(all.clone())
            .effective(all.clone())
            .inheritable(chown)
            .ambient(all)
            .build()
            .expect("built");
        let have = CapabilitySet::CHOWN | CapabilitySet::NET_RAW | CapabilitySet::KILL;
        let sets = Sets::of(Some(&wanted), have, have);
        let given = CapabilitySet::CHOWN | CapabilitySet::NET_RAW;
        assert_eq!((sets.bounding, sets.permitted, sets.effective), (given, given, given));
        assert_eq!((sets.inheritable, sets.ambient), (CapabilitySet::CHOWN, CapabilitySet::CHOWN));
        assert_eq!(names(sets.clamped), "CAP_SYS_RESOURCE");
    }

    #[test]
    fn no_list_is_no_capability() {
        let sets = Sets::of(None, CapabilitySet::all(), CapabilitySet::all());
        assert!((sets.bounding | sets.permitted | sets.effective | sets.inheritable).is_empty());
    }
}
