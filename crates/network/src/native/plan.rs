//! Reading a configuration list as a chain that this process can run itself.
//!
//! The rule is strict: every plugin, every key of each and every value must be one whose
//! meaning is known here. Anything else (also what the programs would refuse) is left to
//! the programs, so that both ways always mean the same.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    result::{Dns, parse_mac},
    vlan::{TrunkItem, Vlans},
};
use crate::{
    Subnet,
    cni::{NetworkList, Plugin, Version},
    options::is_interface_name,
    subnet::bits,
};

/// Keys that every plugin's configuration may have and that are read elsewhere.
const COMMON_KEYS: [&str; 5] = ["type", "name", "cniVersion", "cniVersions", "capabilities"];
/// The plugins' own default of host-local's directory.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";
/// The highest burst that the bandwidth plugin takes, in bits.
const MAX_BURST_BITS: u64 = u32::MAX as u64;

/// A chain that can be run in this process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// What makes the pod's interface.
    pub(crate) main: Main,
    pub(crate) ipam: Ipam,
    /// What the chain's author says about names.
    pub(crate) dns: Dns,
    /// Runtime arguments that the first plugin and its IPAM ask for.
    pub(crate) takes_ips: bool,
    pub(crate) takes_mac: bool,
    /// What follows, in order.
    pub(crate) extras: Vec<Extra>,
}

/// The plugin that makes the pod's interface.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Main {
    /// `bridge`.
    Bridge(Bridge),
    /// `ptp`.
    Ptp(Ptp),
}

/// A plugin that works on an interface that is there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Extra {
    /// `portmap`.
    Portmap(Portmap),
    /// `bandwidth`.
    Bandwidth(Bandwidth),
    /// `firewall`: nothing is to be done where nothing filters what is forwarded.
    Firewall,
    /// `tuning`.
    Tuning(Tuning),
}

/// Configuration of `bridge`.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "the plugin's own keys")]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) is_gateway: bool,
    pub(crate) is_default_gateway: bool,
    pub(crate) force_address: bool,
    pub(crate) ip_masq: bool,
    pub(crate) hairpin_mode: bool,
    pub(crate) promisc_mode: bool,
    pub(crate) mtu: u32,
    pub(crate) vlans: Vlans,
    /// Whether pods wait until nobody else has their IPv6 addresses.
    pub(crate) detects_duplicates: bool,
    /// Whether pods are held to the hardware address that they were given.
    pub(crate) holds_to_mac: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "the plugin's own keys")]
struct BridgeKeys {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    hairpin_mode: bool,
    promisc_mode: bool,
    mtu: u32,
    vlan: u16,
    vlan_trunk: Option<Vec<TrunkItem>>,
    preserve_default_vlan: bool,
    enabledad: bool,
    macspoofchk: bool,
}

impl Default for BridgeKeys {
    fn default() -> Self {
        Self {
            bridge: "cni0".to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: false,
            hairpin_mode: false,
            promisc_mode: false,
            mtu: 0,
            vlan: 0,
            vlan_trunk: None,
            preserve_default_vlan: true,
            enabledad: false,
            macspoofchk: false,
        }
    }
}

/// Configuration of `ptp`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Ptp {
    pub(crate) ip_masq: bool,
    pub(crate) mtu: u32,
}

/// Configuration of `portmap`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Portmap {
    /// Whether a pod and 127.0.0.1 reach the ports too.
    pub(crate) snat: bool,
    /// Whether all sources are hidden.
    pub(crate) masq_all: bool,
    #[serde(skip)]
    pub(crate) takes_mappings: bool,
}

impl Default for Portmap {
    fn default() -> Self {
        Self { snat: true, masq_all: false, takes_mappings: false }
    }
}

/// Rates in bits a second and bursts in bits; zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Bandwidth {
    pub(crate) ingress_rate: u64,
    pub(crate) ingress_burst: u64,
    pub(crate) egress_rate: u64,
    pub(crate) egress_burst: u64,
    #[serde(skip)]
    pub(crate) takes_rates: bool,
}

impl Bandwidth {
    /// Refuses what the plugin refuses.
    pub(crate) fn validate(self) -> Result<Self, String> {
        for (what, rate, burst) in [
            ("ingress", self.ingress_rate, self.ingress_burst),
            ("egress", self.egress_rate, self.egress_burst),
        ] {
            if (rate == 0) != (burst == 0) {
                return Err(format!("{what} rate and burst must both be set, or neither"));
            }
            if burst > MAX_BURST_BITS {
                return Err(format!("{what} burst is above {MAX_BURST_BITS} bits"));
            }
            if rate > 0 && rate < 8 {
                return Err(format!("{what} rate is below one byte a second"));
            }
        }
        Ok(self)
    }
}

/// Configuration of `tuning`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(crate) struct Tuning {
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) promisc: bool,
    pub(crate) allmulti: bool,
    #[serde(skip)]
    pub(crate) takes_mac: bool,
}

impl Tuning {
    /// Leaves to the program what it may refuse.
    fn validate(self) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good = |key: &&String| {
            key.starts_with("net.") && key.chars().all(plain) && !key.contains("..")
        };
        if let Some(key) = self.sysctl.keys().find(|key| !good(key)) {
            return Err(format!("sysctl {key:?} is not one of the network"));
        }
        if !self.mac.is_empty() && parse_mac(&self.mac).is_none() {
            return Err(format!("mac {:?} is no hardware address", self.mac));
        }
        Ok(self)
    }
}

/// Configuration of `host-local`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ipam {
    /// The network's directory of leases.
    pub(crate) dir: PathBuf,
    /// One address is taken of each set.
    pub(crate) sets: Vec<Vec<Range>>,
    pub(crate) routes: Vec<RouteWish>,
    pub(crate) resolv_conf: Option<PathBuf>,
}

/// Addresses that may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: Subnet,
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
    pub(crate) gateway: IpAddr,
}

/// A route that pods shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteWish {
    pub(crate) dst: Subnet,
    #[serde(default)]
    pub(crate) gw: Option<IpAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct IpamKeys {
    #[serde(rename = "type")]
    kind: String,
    data_dir: Option<PathBuf>,
    ranges: Vec<Vec<RangeKeys>>,
    routes: Vec<RouteWish>,
    resolv_conf: Option<PathBuf>,
    // One range as earlier versions wrote it.
    subnet: Option<Subnet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RangeKeys {
    subnet: Subnet,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

impl Plan {
    /// Reads a list.
    ///
    /// # Errors
    ///
    /// Why the programs must run it.
    pub(crate) fn read(list: &NetworkList) -> Result<Self, String> {
        let mut plugins = list.plugins.iter().peekable();
        if plugins.peek().is_some_and(|plugin| plugin.kind == "loopback") {
            // `lo` is up before any chain begins, and the next plugin's result replaces its.
            plugins.next().map(read_loopback).transpose()?;
        }
        let first = plugins.next().ok_or("no plugin makes an interface")?;
        let (main, ipam, dns) = read_main(first, &list.name)?;
        let extras: Vec<Extra> = plugins.map(read_extra).collect::<Result<_, _>>()?;
        let retunes = |extra: &Extra| match extra {
            Extra::Tuning(tuning) => tuning.takes_mac || !tuning.mac.is_empty(),
            Extra::Portmap(_) | Extra::Bandwidth(_) | Extra::Firewall => false,
        };
        if matches!(&main, Main::Bridge(bridge) if bridge.holds_to_mac)
            && extras.iter().any(retunes)
        {
            // The program holds pods to the address that they had before.
            return Err("macspoofchk with another hardware address by tuning".to_owned());
        }
        Ok(Self {
            name: list.name.clone(),
            version: list.version,
            main,
            ipam,
            dns,
            takes_ips: first.takes("ips"),
            takes_mac: first.takes("mac"),
            extras,
        })
    }

    /// Returns the interface of the host that leads to all pods, where one does: the bridge,
    /// or the gateway of their VLAN.
    pub(crate) fn shared_interface(&self) -> Option<String> {
        let Main::Bridge(bridge) = &self.main else { return None };
        let gateway = bridge.vlans.gateway_of(&bridge.name).filter(|_| bridge.is_gateway);
        Some(gateway.unwrap_or_else(|| bridge.name.clone()))
    }

    /// Reports whether pods are held to their hardware addresses.
    pub(crate) fn holds_to_mac(&self) -> bool {
        matches!(&self.main, Main::Bridge(bridge) if bridge.holds_to_mac)
    }

    /// Reports whether packets of pods are masqueraded.
    pub(crate) fn masquerades(&self) -> bool {
        match &self.main {
            Main::Bridge(bridge) => bridge.ip_masq,
            Main::Ptp(ptp) => ptp.ip_masq,
        }
    }

    /// Reports whether a `firewall` is in the chain.
    pub(crate) fn has_firewall(&self) -> bool {
        self.extras.contains(&Extra::Firewall)
    }

    /// Returns the chain's `portmap`.
    pub(crate) fn portmap(&self) -> Option<&Portmap> {
        self.extras.iter().find_map(|extra| match extra {
            Extra::Portmap(portmap) => Some(portmap),
            _ => None,
        })
    }
}

fn read_loopback(plugin: &Plugin) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    keys::<Nothing>(plugin, &[], &[]).map(drop)
}

fn read_main(plugin: &Plugin, network: &str) -> Result<(Main, Ipam, Dns), String> {
    let capabilities = ["ips", "mac"];
    let main = match plugin.kind.as_str() {
        "bridge" => Main::Bridge(read_bridge(keys(plugin, &["ipam", "dns"], &capabilities)?)?),
        "ptp" => Main::Ptp(keys(plugin, &["ipam", "dns"], &capabilities[..1])?),
        other => return Err(format!("plugin \"{other}\" is not known as the first one")),
    };
    let part = |key: &str| plugin.conf.get(key).cloned().unwrap_or(Value::Null);
    let dns = match part("dns") {
        Value::Null => Dns::default(),
        dns => serde_json::from_value(dns).map_err(|error| format!("dns: {error}"))?,
    };
    Ok((main, read_ipam(part("ipam"), network)?, dns))
}

fn read_bridge(keys: BridgeKeys) -> Result<Bridge, String> {
    let trunk = keys.vlan_trunk.as_deref();
    let vlans = Vlans::read(&keys.bridge, keys.vlan, trunk, keys.preserve_default_vlan)?;
    let bridge = Bridge {
        name: keys.bridge,
        is_gateway: keys.is_gateway || keys.is_default_gateway,
        is_default_gateway: keys.is_default_gateway,
        force_address: keys.force_address,
        ip_masq: keys.ip_masq,
        hairpin_mode: keys.hairpin_mode,
        promisc_mode: keys.promisc_mode,
        mtu: keys.mtu,
        vlans,
        detects_duplicates: keys.enabledad,
        holds_to_mac: keys.macspoofchk,
    };
    if !is_interface_name(&bridge.name) {
        return Err(format!("bridge {:?} is no name of an interface", bridge.name));
    }
    if bridge.hairpin_mode && bridge.promisc_mode {
        return Err("hairpinMode and promiscMode exclude each other".to_owned());
    }
    Ok(bridge)
}

fn read_extra(plugin: &Plugin) -> Result<Extra, String> {
    #[derive(Deserialize, Default)]
    #[serde(deny_unknown_fields, default)]
    struct Firewall {
        backend: String,
    }
    Ok(match plugin.kind.as_str() {
        "portmap" => {
            let takes_mappings = plugin.takes("portMappings");
            Extra::Portmap(Portmap { takes_mappings, ..keys(plugin, &[], &["portMappings"])? })
        }
        "bandwidth" => {
            let takes_rates = plugin.takes("bandwidth");
            let limits: Bandwidth = keys(plugin, &[], &["bandwidth"])?;
            Extra::Bandwidth(Bandwidth { takes_rates, ..limits.validate()? })
        }
        "firewall" => match keys::<Firewall>(plugin, &[], &[])?.backend.as_str() {
            "" | "iptables" => Extra::Firewall,
            other => return Err(format!("firewall backend {other:?} is not known")),
        },
        "tuning" => {
            let takes_mac = plugin.takes("mac");
            Extra::Tuning(Tuning {
                takes_mac,
                ..keys::<Tuning>(plugin, &[], &["mac"])?.validate()?
            })
        }
        other => return Err(format!("plugin \"{other}\" is not known")),
    })
}

/// Reads a plugin's own keys, all of which must be known.
fn keys<T: DeserializeOwned>(
    plugin: &Plugin,
    apart: &[&str],
    capabilities: &[&str],
) -> Result<T, String> {
    let foreign = |name: &&String| !capabilities.contains(&name.as_str());
    if let Some(name) = plugin.capabilities.iter().find(foreign) {
        return Err(format!("{}: capability \"{name}\" is not known", plugin.kind));
    }
    let own: Map<String, Value> = plugin
        .conf
        .iter()
        .filter(|(key, _)| !COMMON_KEYS.contains(&key.as_str()) && !apart.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    serde_json::from_value(Value::Object(own)).map_err(|error| format!("{}: {error}", plugin.kind))
}

fn read_ipam(value: Value, network: &str) -> Result<Ipam, String> {
    let keys: IpamKeys = serde_json::from_value(value).map_err(|error| format!("ipam: {error}"))?;
    if keys.kind != "host-local" {
        return Err(format!("ipam {:?} is not known", keys.kind));
    }
    let mut sets = Vec::new();
    if let Some(subnet) = keys.subnet {
        let IpamKeys { range_start, range_end, gateway, .. } = keys;
        sets.push(vec![RangeKeys { subnet, range_start, range_end, gateway }]);
    } else if keys.range_start.is_some() || keys.range_end.is_some() || keys.gateway.is_some() {
        return Err("ipam: a range without subnet".to_owned());
    }
    sets.extend(keys.ranges);
    let sets: Vec<Vec<Range>> = sets
        .into_iter()
        .map(|set| set.into_iter().map(RangeKeys::read).collect())
        .collect::<Result<_, String>>()?;
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return Err("ipam: no ranges".to_owned());
    }
    let all: Vec<Range> = sets.iter().flatten().copied().collect();
    let mixed = sets
        .iter()
        .any(|set| set.iter().any(|range| range.subnet.is_ipv6() != set[0].subnet.is_ipv6()));
    if mixed || has_overlap(&all) {
        return Err("ipam: ranges overlap or mix families".to_owned());
    }
    let data_dir = keys.data_dir.filter(|dir| dir != Path::new(""));
    let data_dir = data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    if !data_dir.is_absolute() {
        return Err("ipam: dataDir is not absolute".to_owned());
    }
    Ok(Ipam {
        dir: data_dir.join(network),
        sets,
        routes: keys.routes,
        resolv_conf: keys.resolv_conf.filter(|path| path != Path::new("")),
    })
}

fn has_overlap(ranges: &[Range]) -> bool {
    ranges.iter().enumerate().any(|(position, range)| {
        ranges[..position].iter().any(|other| range.subnet.overlaps(other.subnet))
    })
}

impl RangeKeys {
    fn read(self) -> Result<Range, String> {
        let subnet = self.subnet;
        let longest = if subnet.is_ipv6() { 126 } else { 30 };
        if subnet.network() != subnet || subnet.prefix() > longest {
            return Err(format!("ipam: subnet {subnet} has host bits or no room"));
        }
        let range = Range {
            subnet,
            first: self.range_start.unwrap_or_else(|| subnet.host(1)),
            last: self.range_end.unwrap_or_else(|| subnet.last_host()),
            gateway: self.gateway.unwrap_or_else(|| subnet.host(1)),
        };
        let inside = [range.first, range.last].into_iter().all(|ip| subnet.contains(ip));
        if !inside
            || range.gateway.is_ipv6() != subnet.is_ipv6()
            || bits(range.first) > bits(range.last)
        {
            return Err(format!("ipam: range of {subnet} is not within it"));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(plugins: &Value) -> Result<Plan, String> {
        let conf = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins });
        Plan::read(&NetworkList::from_value(conf).unwrap())
    }

    fn ipam() -> Value {
        json!({ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }]] })
    }

    #[test]
    fn the_common_chain_is_known() {
        let plan = read(&json!([
            { "type": "loopback" },
            { "type": "bridge", "bridge": "b0", "isDefaultGateway": true, "ipMasq": true,
              "hairpinMode": true, "mtu": 1400, "vlan": 0, "capabilities": { "ips": true },
              "dns": { "nameservers": ["10.0.0.10"] },
              "ipam": { "type": "host-local", "dataDir": "/d", "subnet": "10.1.0.0/24",
                        "rangeStart": "10.1.0.10", "gateway": "10.1.0.254",
                        "ranges": [[{ "subnet": "fd00::/64" }]],
                        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "fd01::/64", "gw": "fd00::9" }] } },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": false },
            { "type": "bandwidth", "ingressRate": 8000, "ingressBurst": 80000 },
            { "type": "firewall", "backend": "iptables" },
            { "type": "tuning", "sysctl": { "net.core.somaxconn": "500" }, "mtu": 1300 },
        ]))
        .unwrap();
        assert_eq!(plan.shared_interface().as_deref(), Some("b0"));
        assert!(plan.masquerades() && plan.has_firewall() && plan.takes_ips && !plan.takes_mac);
        assert_eq!(plan.ipam.dir, Path::new("/d/n"));
        let first = plan.ipam.sets[0][0];
        assert_eq!(first.first.to_string(), "10.1.0.10");
        assert_eq!(first.last.to_string(), "10.1.0.254");
        assert_eq!(plan.ipam.sets[1][0].gateway.to_string(), "fd00::1");
        let portmap = plan.portmap().unwrap();
        assert!(portmap.takes_mappings && !portmap.snat);
        let Main::Bridge(bridge) = &plan.main else { panic!("a bridge") };
        assert!(bridge.is_gateway && bridge.mtu == 1400);
    }

    #[test]
    fn vlans_lead_by_an_interface_of_their_own() {
        let with = |keys: Value| {
            let mut conf = json!({ "type": "bridge", "bridge": "b0", "ipam": ipam() });
            conf.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            read(&json!([conf])).unwrap().shared_interface().unwrap()
        };
        assert_eq!(with(json!({ "vlan": 5, "isGateway": true })), "b0.5");
        assert_eq!(with(json!({ "vlan": 5, "preserveDefaultVlan": false })), "b0");
        let trunk = json!({ "vlanTrunk": [{ "minID": 5, "maxID": 9 }], "isGateway": true });
        assert_eq!(with(trunk), "b0");
        assert_eq!(with(json!({ "macspoofchk": true, "enabledad": true })), "b0");
    }

    #[test]
    fn whatever_is_not_known_is_left_to_the_programs() {
        let bridge = |keys: Value| {
            let mut conf = json!({ "type": "bridge", "ipam": ipam() });
            for (key, value) in keys.as_object().unwrap() {
                conf[key] = value.clone();
            }
            json!([conf])
        };
        let with = |extra: Value| json!([{ "type": "bridge", "ipam": ipam() }, extra]);
        for plugins in [
            json!([]),
            json!([{ "type": "loopback" }]),
            json!([{ "type": "macvlan", "ipam": ipam() }]),
            json!([{ "type": "portmap" }]),
            bridge(json!({ "isgateway": true })),
            bridge(json!({ "args": {} })),
            bridge(json!({ "mtu": "1500" })),
            bridge(json!({ "mtu": null })),
            bridge(json!({ "vlan": 5000 })),
            bridge(json!({ "vlan": -1 })),
            bridge(json!({ "vlanTrunk": [{ "minID": 6 }] })),
            bridge(json!({ "portIsolation": true })),
            bridge(json!({ "hairpinMode": true, "promiscMode": true })),
            bridge(json!({ "bridge": "../../etc" })),
            bridge(json!({ "capabilities": { "other": true } })),
            bridge(json!({ "ipam": { "type": "dhcp" } })),
            bridge(json!({ "ipam": {} })),
            bridge(json!({ "ipam": { "type": "host-local", "ranges": [] } })),
            bridge(json!({ "ipam": { "type": "host-local", "ranges": [[]] } })),
            bridge(json!({ "ipam": { "type": "host-local", "subnet": "10.1.0.1/24" } })),
            bridge(json!({ "ipam": { "type": "host-local", "subnet": "10.1.0.0/31" } })),
            bridge(json!({ "ipam": { "type": "host-local", "subnet": "10.1.0.0/24", "x": 1 } })),
            bridge(json!({ "ipam": { "type": "host-local",
                "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.1.0.0/16" }]] } })),
            bridge(json!({ "ipam": { "type": "host-local",
                "ranges": [[{ "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1" }]] } })),
            with(json!({ "type": "portmap", "conditionsV4": [] })),
            with(json!({ "type": "firewall", "backend": "firewalld" })),
            with(json!({ "type": "bandwidth", "ingressRate": 8 })),
            with(json!({ "type": "sbr" })),
            with(json!({ "type": "tuning", "sysctl": { "kernel.panic": "1" } })),
            with(json!({ "type": "tuning", "sysctl": { "net.../../kernel/panic": "1" } })),
            with(json!({ "type": "tuning", "mac": "x" })),
            with(json!({ "type": "bridge", "ipam": ipam() })),
            json!([{ "type": "bridge", "macspoofchk": true, "ipam": ipam() },
                   { "type": "tuning", "mac": "02:00:00:00:00:01" }]),
        ] {
            let conf = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": plugins });
            let Ok(list) = NetworkList::from_value(conf) else { continue };
            assert!(Plan::read(&list).is_err(), "{plugins}");
        }
        assert!(read(&bridge(json!({}))).is_ok());
    }
}
