//! The built-in default network: a bridge, a pair of interfaces a pod, addresses in
//! host-local's format, masquerade and host ports, in this process by netlink.
//!
//! Bridge and table exist while a pod does. What belongs to a pod is found by its id
//! alone: the lease holds it, the interface's name begins with it, and the host ports are
//! in the pod's record. `ip_forward` is switched on and stays on, since others may have
//! come to need it.
//!
//! Blocking: the callers run it on threads that may wait for the kernel.

mod bridge;
mod ipam;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{PoisonError, RwLock},
};

use serde_json::json;
use types::{PortMapping, SandboxId};

pub(crate) use self::ports::protocol_name;
use self::{
    bridge::{Bridge, Port},
    ipam::Ipam,
    ports::{HostPort, Ports},
};
use crate::{Attachment, BuiltinOptions, INTERFACE, NetworkError};

/// The version of the result that we make.
const RESULT_VERSION: &str = "1.0.0";

/// The built-in network.
#[derive(Debug)]
pub(crate) struct Builtin {
    options: BuiltinOptions,
    bridge: Bridge,
    ipam: Ipam,
    ports: Ports,
    /// Read while a pod comes or goes, written while bridge and table go.
    gate: RwLock<()>,
}

/// A pod that stays, as far as its record tells. One without a record may be on another
/// network: it keeps what it has here, if anything.
#[derive(Debug, Clone)]
pub(crate) struct KnownPod {
    pub(crate) id: SandboxId,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) port_mappings: Vec<PortMapping>,
}

impl Builtin {
    pub(crate) fn new(options: &BuiltinOptions, ipam_dir: &Path) -> Self {
        let dir = ipam_dir.join(&options.name);
        Self {
            options: options.clone(),
            bridge: Bridge::new(options, ipam_dir),
            ipam: Ipam::new(dir, options.subnet),
            ports: Ports::new(options),
            gate: RwLock::new(()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.options.name
    }

    /// Gives a pod its network. Where a step fails nothing is undone: that is
    /// [`Builtin::detach`]'s.
    pub(crate) fn attach(
        &self,
        id: &SandboxId,
        netns: &Path,
        mappings: &[PortMapping],
    ) -> Result<Attachment, NetworkError> {
        let _coming = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let address = self.ipam.allocate(id)?;
        let ports = host_ports(id, mappings, address)?;
        let port = self.bridge.connect(id, netns, address)?;
        self.ports.add(id, ports)?;
        Ok(self.attachment(&port, address, netns))
    }

    /// Takes away whatever a pod has, in the reverse order.
    pub(crate) fn detach(
        &self,
        id: &SandboxId,
        address: Option<Ipv4Addr>,
    ) -> Result<(), NetworkError> {
        {
            let _going = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let ports = self.ports.remove(id);
            let link = self.bridge.disconnect(id);
            ports.and(link)?;
            // Last: an address is free when nothing answers to it any more.
            self.ipam.release(id, address)?;
        }
        self.remove_if_unused()
    }

    /// Removes what belongs to no known pod, and restores the rules of the known ones.
    pub(crate) fn recover(&self, known: &[KnownPod]) -> Result<(), NetworkError> {
        {
            let _coming = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let ids: Vec<SandboxId> = known.iter().map(|pod| pod.id.clone()).collect();
            self.bridge.retain(&ids)?;
            self.ipam.retain(&ids.iter().map(SandboxId::as_str).collect::<BTreeSet<_>>())?;
            if !self.ipam.is_empty()? {
                return self.ports.restore(ports_of(known));
            }
        }
        self.remove_if_unused()
    }

    fn remove_if_unused(&self) -> Result<(), NetworkError> {
        if !self.ipam.is_empty()? {
            return Ok(());
        }
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if self.ipam.is_empty()? && self.bridge.remove_if_unused()? {
            self.ports.remove_table()?;
        }
        Ok(())
    }

    fn attachment(&self, port: &Port, address: Ipv4Addr, netns: &Path) -> Attachment {
        let subnet = self.options.subnet;
        let mac = |mac: Option<[u8; 6]>| mac.map_or_else(String::new, format_mac);
        let result = json!({
            "cniVersion": RESULT_VERSION,
            "interfaces": [
                { "name": self.options.bridge, "mac": mac(port.bridge_mac) },
                { "name": port.name, "mac": mac(port.mac) },
                { "name": INTERFACE, "mac": format_mac(port.pod_mac), "sandbox": netns },
            ],
            "ips": [{
                "interface": 2,
                "address": format!("{address}/{}", subnet.prefix()),
                "gateway": subnet.gateway(),
            }],
            "routes": [{ "dst": "0.0.0.0/0" }],
            "dns": {},
        });
        let ips = vec![IpAddr::V4(address)];
        Attachment { ips, network: self.options.name.clone(), builtin: true, result }
    }
}

fn host_ports(
    id: &SandboxId,
    mappings: &[PortMapping],
    address: Ipv4Addr,
) -> Result<Vec<HostPort>, NetworkError> {
    mappings
        .iter()
        .filter_map(|mapping| HostPort::from_mapping(mapping, address).transpose())
        .collect::<Result<_, _>>()
        .map_err(|problem| NetworkError::InvalidRequest { sandbox_id: id.clone(), problem })
}

fn ports_of(known: &[KnownPod]) -> BTreeMap<SandboxId, Vec<HostPort>> {
    let read = |pod: &KnownPod| {
        let read = |address| host_ports(&pod.id, &pod.port_mappings, address).ok();
        (pod.id.clone(), pod.address.and_then(read).unwrap_or_default())
    };
    known.iter().map(read).collect()
}

fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
