//! Traffic control: token buckets, and sending round what comes in by an interface.
//!
//! Numbers and structures are those of `linux/pkt_sched.h` and `linux/pkt_cls.h`.

use std::io;

use super::{Family, Message, Socket, flags};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWFILTER: u16 = 44;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// Length of `tcmsg`.
const HEADER: usize = 20;

const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const ROOT_HANDLE: u32 = 0x0001_0000;
/// How long a packet may wait in a bucket.
const LATENCY_US: u64 = 25_000;
/// The kernel's clock of packet schedulers ticks every 64 ns.
const NS_PER_TICK: u64 = 64;

/// How fast packets may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// Bytes at once.
    pub(crate) burst: u64,
}

/// Traffic control of one network namespace.
#[derive(Debug)]
pub(crate) struct Shaper {
    socket: Socket,
}

impl Shaper {
    /// Opens that of the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Family::Route)? })
    }

    /// Lets what leaves by an interface go no faster than the bucket fills.
    pub(crate) fn shape(&mut self, index: u32, bucket: Bucket) -> io::Result<()> {
        self.socket.request(bucket_message(index, bucket)).map(drop)
    }

    /// Sends what comes in by an interface out by another one.
    pub(crate) fn redirect(&mut self, from: u32, to: u32) -> io::Result<()> {
        let mut message = Message::new(
            RTM_NEWQDISC,
            flags::CREATE | flags::EXCL,
            &header(from, INGRESS_HANDLE, INGRESS, 0),
        );
        message.text(TCA_KIND, "ingress");
        self.socket.request(message)?;
        self.socket.request(redirect_message(from, to)).map(drop)
    }
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    for (position, value) in (4..).step_by(4).zip([index, handle, parent, info]) {
        header[position..position + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// `tc qdisc add dev INDEX root tbf`.
fn bucket_message(index: u32, bucket: Bucket) -> Message {
    const TBF_PARMS: u16 = 1;
    const TBF_RATE64: u16 = 4;
    const LINKLAYER_ETHERNET: u8 = 1;
    let clamp = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let rate = bucket.rate.max(1);
    let ticks = u128::from(bucket.burst) * 1_000_000_000 / u128::from(rate * NS_PER_TICK);
    let limit = rate.saturating_mul(LATENCY_US) / 1_000_000 + bucket.burst;
    let mut options = Vec::with_capacity(36);
    options.extend_from_slice(&[0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
    options.extend_from_slice(&clamp(rate).to_ne_bytes());
    options.extend_from_slice(&[0; 12]);
    for value in [clamp(limit), u32::try_from(ticks).unwrap_or(u32::MAX), 0] {
        options.extend_from_slice(&value.to_ne_bytes());
    }
    let create = flags::CREATE | flags::EXCL;
    let mut message = Message::new(RTM_NEWQDISC, create, &header(index, ROOT_HANDLE, ROOT, 0));
    message.text(TCA_KIND, "tbf").nest(TCA_OPTIONS, |nested| {
        nested.attribute(TBF_PARMS, &options);
        if rate > u64::from(u32::MAX) {
            nested.attribute(TBF_RATE64, &rate.to_ne_bytes());
        }
    });
    message
}

/// `tc filter add dev FROM parent ffff: protocol all u32 match u32 0 0 action mirred egress
/// redirect dev TO`.
fn redirect_message(from: u32, to: u32) -> Message {
    const ETH_P_ALL: u16 = 3;
    const U32_SELECTOR: u16 = 5;
    const U32_ACTION: u16 = 7;
    const ACTION_KIND: u16 = 1;
    const ACTION_OPTIONS: u16 = 2;
    const MIRRED_PARMS: u16 = 2;
    const STOLEN: u32 = 4;
    const EGRESS_REDIRECT: u32 = 1;
    const TERMINAL: u8 = 1;
    const ONE_KEY: u8 = 1;
    let info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    let header = header(from, 0, INGRESS_HANDLE, info);
    let mut message = Message::new(RTM_NEWFILTER, flags::CREATE | flags::EXCL, &header);
    message.text(TCA_KIND, "u32").nest(TCA_OPTIONS, |options| {
        // One key of mask 0, which all packets match.
        let mut selector = vec![TERMINAL, 0, ONE_KEY, 0];
        selector.extend_from_slice(&[0; 12 + 16]);
        options.attribute(U32_SELECTOR, &selector);
        options.nest(U32_ACTION, |actions| {
            actions.nest(1, |action| {
                action.text(ACTION_KIND, "mirred").nest(ACTION_OPTIONS, |nested| {
                    let parms = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to];
                    let parms: Vec<u8> = parms.into_iter().flat_map(u32::to_ne_bytes).collect();
                    nested.attribute(MIRRED_PARMS, &parms);
                });
            });
        });
    });
    message
}
