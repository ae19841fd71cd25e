//! VLANs of the `bridge` plugin: what a configuration says, and how ports get them.

use std::io;

use serde::Deserialize;

use super::link::{conf, failed, find, set_sysctl_where_present};
use crate::{
    NetworkError,
    netlink::route::{Link, Routes},
    options::MAX_INTERFACE_NAME,
};

/// The VLAN of what has no tag on a trunk that says no other.
const NATIVE_VLAN: u16 = 1;
/// The highest VLAN that is nobody's reserve.
const LAST_VLAN: u16 = 4094;

/// An item of `vlanTrunk`: one VLAN, a range, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TrunkItem {
    id: Option<u16>,
    #[serde(rename = "minID")]
    first: Option<u16>,
    #[serde(rename = "maxID")]
    last: Option<u16>,
}

/// The VLANs of a pod's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vlans {
    /// The VLAN that the pod is in without knowing it; on a trunk that of what has no tag.
    pub(crate) access: Option<u16>,
    /// Ranges of VLANs whose tags the pod sees: sorted, none touches another.
    trunk: Vec<(u16, u16)>,
    /// Whether the bridge keeps VLANs apart.
    pub(crate) kept_apart: bool,
    /// Whether the port stays in the bridge's own VLAN too.
    keeps_default: bool,
}

impl Vlans {
    /// Reads the plugin's keys `vlan`, `vlanTrunk` and `preserveDefaultVlan`.
    ///
    /// # Errors
    ///
    /// What the program would refuse.
    pub(crate) fn read(
        bridge: &str,
        access: u16,
        trunk: Option<&[TrunkItem]>,
        keeps_default: bool,
    ) -> Result<Self, String> {
        if access > LAST_VLAN {
            return Err(format!("vlan {access} is above {LAST_VLAN}"));
        }
        let ranges = merge(trunk.unwrap_or_default())?;
        let access = (access > 0).then_some(access);
        let vlans = Self {
            access,
            trunk: ranges,
            kept_apart: access.is_some() || trunk.is_some(),
            keeps_default,
        };
        let gateway = vlans.gateway_of(bridge);
        if gateway.is_some_and(|name| name.len() > MAX_INTERFACE_NAME) {
            return Err(format!("bridge {bridge:?} is too long for an interface of a VLAN"));
        }
        Ok(vlans)
    }

    /// Returns the name of the interface by which the host is in the pods' VLAN.
    pub(crate) fn gateway_of(&self, bridge: &str) -> Option<String> {
        self.access.map(|vlan| format!("{bridge}.{vlan}"))
    }

    /// Gives a port that has just joined a bridge its VLANs.
    pub(crate) fn give(
        &self,
        routes: &mut Routes,
        bridge: &Link,
        port: &Link,
    ) -> Result<(), NetworkError> {
        let given = (|| {
            let default = bridge.default_vlan.filter(|vlan| *vlan != 0 && !self.keeps_default);
            if let Some(vlan) = default.filter(|_| self.access.is_some() || !self.trunk.is_empty())
            {
                routes.remove_vlan(port.index, vlan)?;
            }
            if let Some(vlan) = self.access {
                routes.add_access_vlan(port.index, vlan)?;
            }
            if self.trunk.is_empty() {
                return Ok(());
            }
            // In the program's order: a VLAN that is named twice is what it is at last.
            routes.add_tagged_vlans(port.index, &self.trunk)?;
            match self.access {
                Some(_) => Ok(()),
                None => routes.add_access_vlan(port.index, NATIVE_VLAN),
            }
        })();
        given.map_err(|source| unable(&bridge.name, source))
    }

    /// Makes the interface by which the host is in the pods' VLAN: the other end of a port,
    /// as the program makes it. It stays, as the bridge does. What is there of another kind
    /// is taken as it is.
    pub(crate) fn ensure_gateway(
        &self,
        routes: &mut Routes,
        bridge: &Link,
        name: &str,
    ) -> Result<Link, NetworkError> {
        let link = match routes.link(name).map_err(failed("find", name))? {
            Some(link) if link.kind != "veth" => return Ok(link),
            Some(link) => link,
            None => {
                match routes.create_wire(name, bridge.mtu) {
                    // The plugin of another runtime was quicker.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other.map_err(failed("make", name))?,
                }
                // Pods are on it: they must not configure the host (CVE-2020-10749).
                set_sysctl_where_present(&conf("ipv6", name, "accept_ra"), "0")?;
                find(routes, name)?
            }
        };
        let other = link.other.unwrap_or_default();
        let port = routes.link_by_index(other).map_err(failed("find the port of", name))?;
        // All of it again: whoever made it may have died meanwhile.
        if let Some(port) =
            port.filter(|port| port.kind == "veth" && port.other == Some(link.index))
        {
            set_sysctl_where_present(&conf("ipv6", &port.name, "accept_ra"), "0")?;
            routes.join(port.index, bridge.index).map_err(failed("connect", &port.name))?;
            Self { trunk: Vec::new(), ..self.clone() }.give(routes, bridge, &port)?;
        }
        routes.set_up(link.index).map_err(failed("set up", name))?;
        Ok(link)
    }
}

/// Reports that the kernel has no VLANs on bridges, if that is why.
pub(crate) fn unable(bridge: &str, source: io::Error) -> NetworkError {
    let bridge = bridge.to_owned();
    if source.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) {
        NetworkError::NoVlans { bridge, source }
    } else {
        NetworkError::Interface { action: "give VLANs to a port of", interface: bridge, source }
    }
}

/// Returns the VLANs of a trunk as ranges of which none touches another.
fn merge(items: &[TrunkItem]) -> Result<Vec<(u16, u16)>, String> {
    let mut ranges = Vec::new();
    for item in items {
        match (item.first, item.last) {
            (None, None) => {}
            (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
            _ => return Err("vlanTrunk: a range needs minID and a maxID not below it".to_owned()),
        }
        ranges.extend(item.id.map(|id| (id, id)));
    }
    if ranges.iter().any(|(first, last)| *first == 0 || *last > LAST_VLAN) {
        return Err(format!("vlanTrunk: VLANs are from 1 to {LAST_VLAN}"));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(access: u16, trunk: &serde_json::Value) -> Result<Vlans, String> {
        let items: Option<Vec<TrunkItem>> =
            serde_json::from_value(trunk.clone()).map_err(|error| error.to_string())?;
        Vlans::read("br0", access, items.as_deref(), true)
    }

    #[test]
    fn a_trunk_is_ranges_of_which_none_touches_another() {
        let vlans = read(
            0,
            &json!([{ "id": 7 }, { "minID": 8, "maxID": 9 }, { "id": 4094 },
            { "minID": 2, "maxID": 5, "id": 4 }, {}]),
        );
        assert_eq!(vlans.unwrap().trunk, [(2, 5), (7, 9), (4094, 4094)]);
        let empty = read(0, &json!([])).unwrap();
        assert!(empty.kept_apart && empty.trunk.is_empty());
        assert!(!read(0, &json!(null)).unwrap().kept_apart);
        let both = read(5, &json!([{ "id": 6 }])).unwrap();
        assert_eq!((both.access, both.trunk), (Some(5), vec![(6, 6)]));
    }

    #[test]
    fn the_gateway_is_named_after_bridge_and_vlan() {
        let vlans = read(5, &json!(null)).unwrap();
        assert_eq!(vlans.gateway_of("br0").as_deref(), Some("br0.5"));
        assert_eq!(read(0, &json!([{ "id": 5 }])).unwrap().gateway_of("br0"), None);
        Vlans::read("a-long-bridge", 100, None, true).unwrap_err();
    }

    #[test]
    fn what_the_program_refuses_is_refused() {
        for (access, trunk) in [
            (4095, json!(null)),
            (0, json!([{ "id": 0 }])),
            (0, json!([{ "id": 4095 }])),
            (0, json!([{ "minID": 5 }])),
            (0, json!([{ "maxID": 5 }])),
            (0, json!([{ "minID": 6, "maxID": 5 }])),
            (0, json!([{ "minID": 0, "maxID": 5 }])),
            (0, json!([{ "name": 5 }])),
            (0, json!([{ "id": -1 }])),
        ] {
            assert!(read(access, &trunk).is_err(), "{access} {trunk}");
        }
    }
}
