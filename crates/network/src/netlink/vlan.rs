//! VLANs of a bridge's ports: numbers are those of `linux/if_bridge.h`.

use std::io;

use rustix::io::Errno;

use super::{
    Message,
    route::{Routes, link_header},
};

const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const AF_BRIDGE: u8 = 7;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// The bridge is meant, not the port's own driver.
const BRIDGE_FLAGS_MASTER: u16 = 1;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;
const VLAN_RANGE_BEGIN: u16 = 1 << 3;
const VLAN_RANGE_END: u16 = 1 << 4;

impl Routes {
    /// Puts a port into a VLAN that it does not know of: what comes in by it belongs to the
    /// VLAN, and what leaves by it has no tag.
    pub(crate) fn add_access_vlan(&mut self, port: u32, vlan: u16) -> io::Result<()> {
        self.change_vlans(RTM_SETLINK, port, &[(VLAN_PVID | VLAN_UNTAGGED, vlan)])
    }

    /// Puts a port into VLANs, first and last of each range, whose tags it sees and sets.
    pub(crate) fn add_tagged_vlans(&mut self, port: u32, ranges: &[(u16, u16)]) -> io::Result<()> {
        let mut entries = Vec::new();
        for &(first, last) in ranges {
            if first == last {
                entries.push((0, first));
            } else {
                entries.extend([(VLAN_RANGE_BEGIN, first), (VLAN_RANGE_END, last)]);
            }
        }
        self.change_vlans(RTM_SETLINK, port, &entries)
    }

    /// Takes a port out of a VLAN; one that it is not in is no error.
    pub(crate) fn remove_vlan(&mut self, port: u32, vlan: u16) -> io::Result<()> {
        match self.change_vlans(RTM_DELLINK, port, &[(0, vlan)]) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    fn change_vlans(&mut self, kind: u16, port: u32, entries: &[(u16, u16)]) -> io::Result<()> {
        let mut header = link_header(port, 0, 0);
        header[0] = AF_BRIDGE;
        let mut message = Message::new(kind, 0, &header);
        message.nest(IFLA_AF_SPEC, |list| {
            list.attribute(IFLA_BRIDGE_FLAGS, &BRIDGE_FLAGS_MASTER.to_ne_bytes());
            for (flags, vlan) in entries {
                let [[a, b], [c, d]] = [flags.to_ne_bytes(), vlan.to_ne_bytes()];
                list.attribute(IFLA_BRIDGE_VLAN_INFO, &[a, b, c, d]);
            }
        });
        self.socket.request(message).map(drop)
    }
}
