//! Forgetting connections of UDP: packets of a flow that is remembered follow it, not
//! the rules, so a host port's new owner would never see the flows of the old one.

use std::{io, net::IpAddr};

use super::{Attributes, Family, Message, Reply, Socket, route::read_ip};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// Length of `nfgenmsg`.
const HEADER: usize = 4;
/// `nfgenmsg` of IPv4 and IPv6.
const FAMILIES: [[u8; HEADER]; 2] = [[2, 0, 0, 0], [10, 0, 0, 0]];

/// A flow of UDP that the kernel remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where the sender sends to.
    pub(crate) destination: IpAddr,
    /// On which port.
    pub(crate) port: u16,
    /// Who answers.
    pub(crate) answers: IpAddr,
}

/// Forgets the flows of UDP that `wanted` picks.
pub(crate) fn forget_udp(wanted: impl Fn(Flow) -> bool) -> io::Result<()> {
    let mut socket = Socket::open(Family::Netfilter)?;
    for header in FAMILIES {
        for reply in socket.dump(&Message::new(GET, 0, &header))? {
            let parsed = parse(&reply, &header).filter(|(flow, _)| wanted(*flow));
            let Some((_, message)) = parsed else { continue };
            match socket.request(message) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads a flow, and makes the message that forgets it.
fn parse(reply: &Reply, header: &[u8; HEADER]) -> Option<(Flow, Message)> {
    let attributes = Attributes(reply.payload.get(HEADER..)?);
    let original = attributes.clone().find(CTA_TUPLE_ORIG)?;
    let protocol = Attributes(Attributes(original).find(CTA_TUPLE_PROTO)?);
    if protocol.clone().find(CTA_PROTO_NUM)?.first() != Some(&UDP) {
        return None;
    }
    let port = protocol.find(CTA_PROTO_DST_PORT)?.try_into().ok()?;
    let answer = attributes.clone().find(CTA_TUPLE_REPLY)?;
    let flow = Flow {
        destination: address(original, [CTA_IP_V4_DST, CTA_IP_V6_DST])?,
        port: u16::from_be_bytes(port),
        answers: address(answer, [CTA_IP_V4_SRC, CTA_IP_V6_SRC])?,
    };
    let mut message = Message::new(DELETE, 0, header);
    message.nest(CTA_TUPLE_ORIG, |tuple| {
        tuple.raw(original);
    });
    message.attribute(CTA_ID, attributes.find(CTA_ID)?);
    Some((flow, message))
}

fn address(tuple: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    let ip = Attributes(Attributes(tuple).find(CTA_TUPLE_IP)?);
    kinds.into_iter().find_map(|kind| ip.clone().find(kind)).and_then(read_ip)
}
