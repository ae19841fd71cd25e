//! Forgetting connections of UDP: packets of a flow that is remembered follow it, not
//! the rules, so a host port's new owner would never see the flows of the old one.

use std::{io, net::Ipv4Addr};

use super::{Attributes, Family, Message, Reply, Socket};

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
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// `nfgenmsg` of IPv4.
const HEADER: [u8; 4] = [2, 0, 0, 0];

/// A flow of UDP that the kernel remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where the sender sends to.
    pub(crate) destination: Ipv4Addr,
    /// On which port.
    pub(crate) port: u16,
    /// Who answers.
    pub(crate) answers: Ipv4Addr,
}

/// Forgets the flows of UDP that `wanted` picks.
pub(crate) fn forget_udp(wanted: impl Fn(Flow) -> bool) -> io::Result<()> {
    let mut socket = Socket::open(Family::Netfilter)?;
    for reply in socket.dump(&Message::new(GET, 0, &HEADER))? {
        let Some(message) = parse(&reply).filter(|(flow, _)| wanted(*flow)) else { continue };
        match socket.request(message.1) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a flow, and makes the message that forgets it.
fn parse(reply: &Reply) -> Option<(Flow, Message)> {
    let attributes = Attributes(reply.payload.get(HEADER.len()..)?);
    let original = attributes.clone().find(CTA_TUPLE_ORIG)?;
    let protocol = Attributes(Attributes(original).find(CTA_TUPLE_PROTO)?);
    if protocol.clone().find(CTA_PROTO_NUM)?.first() != Some(&UDP) {
        return None;
    }
    let port = protocol.find(CTA_PROTO_DST_PORT)?.try_into().ok()?;
    let answer = attributes.clone().find(CTA_TUPLE_REPLY)?;
    let flow = Flow {
        destination: address(original, CTA_IP_V4_DST)?,
        port: u16::from_be_bytes(port),
        answers: address(answer, CTA_IP_V4_SRC)?,
    };
    let mut message = Message::new(DELETE, 0, &HEADER);
    message.nest(CTA_TUPLE_ORIG, |tuple| {
        tuple.raw(original);
    });
    message.attribute(CTA_ID, attributes.find(CTA_ID)?);
    Some((flow, message))
}

fn address(tuple: &[u8], kind: u16) -> Option<Ipv4Addr> {
    let bytes = Attributes(Attributes(tuple).find(CTA_TUPLE_IP)?).find(kind)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}
