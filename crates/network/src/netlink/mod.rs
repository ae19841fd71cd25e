//! A small netlink client: messages are built and read by hand.
//!
//! Three families are spoken (routing with traffic control, nf_tables, connection
//! tracking), some twenty requests in all; one builder and one reader serve them, and a batch of nf_tables is one
//! transaction. Blocking: callers run on a thread that may wait for the kernel.

pub(crate) mod conntrack;
mod heard;
mod message;
pub(crate) mod nft;
pub(crate) mod route;
mod socket;
pub(crate) mod tc;
mod vlan;

pub(crate) use heard::TableChanges;
pub(crate) use message::{Attributes, Message, flags, u32_of};
pub(crate) use socket::{Family, Reply, Socket};
