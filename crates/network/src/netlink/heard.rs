//! Hearing of what is taken out of nf_tables, and of what begins to filter, by whomever.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, socket_with,
    },
};
use tokio::io::unix::AsyncFd;

use super::{Attributes, nft, socket::Messages};
use crate::ready::watched;

/// The largest datagram of news; of a longer one the beginning is enough.
const BUFFER: usize = 32 * 1024;

/// A socket that hears of every change of nf_tables in the network namespace in which it
/// was opened.
#[derive(Debug)]
pub(crate) struct TableChanges {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl TableChanges {
    /// Opens a socket, inside a runtime.
    pub(crate) fn open() -> io::Result<Self> {
        // `NFNLGRP_NFTABLES` is the seventh group.
        const TABLES: u32 = 1 << 6;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))?;
        bind(&fd, &SocketAddrNetlink::new(0, TABLES))?;
        Ok(Self { socket: watched(fd)?, buffer: vec![0; BUFFER] })
    }

    /// Waits until a rule, chain, map or all is taken out of the tables of a name. Elements
    /// come and go with pods and are not meant. Changes that were missed are changes.
    ///
    /// # Cancellation
    ///
    /// What has been heard is lost.
    pub(crate) async fn removal_from(&mut self, table: &str) -> io::Result<()> {
        self.news(|datagram| removes(datagram, table)).await
    }

    /// Waits until there is a new chain, or another policy of one, that sees what is
    /// forwarded. Changes that were missed are changes.
    ///
    /// # Cancellation
    ///
    /// What has been heard is lost.
    pub(crate) async fn forward_chain(&mut self) -> io::Result<()> {
        self.news(|datagram| Messages(datagram).any(|m| nft::is_forward_chain(m.kind, m.payload)))
            .await
    }

    async fn news(&mut self, meant: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            loop {
                match recv(ready.get_inner().as_fd(), &mut self.buffer[..], RecvFlags::empty()) {
                    Ok((length, _)) if meant(&self.buffer[..length]) => return Ok(()),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::NOBUFS) => return Ok(()),
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
        }
    }
}

/// Reports whether news tell that something is gone from the tables of a name.
fn removes(datagram: &[u8], table: &str) -> bool {
    Messages(datagram).any(|message| {
        let name = || Attributes(message.payload.get(nft::HEADER..)?).text(nft::TABLE_OF_ANY);
        nft::REMOVALS.contains(&message.kind) && name().as_deref() == Some(table)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Message, *};

    #[test]
    fn only_what_is_taken_out_of_the_table_is_heard() {
        let news = |kind: u16, table: &str| {
            let mut message = Message::new(kind, 0, &[2, 0, 0, 0]);
            message.text(nft::TABLE_OF_ANY, table).text(3, "chain");
            message.finish(1)
        };
        let [gone, ..] = nft::REMOVALS;
        assert!(removes(&news(gone, "ours"), "ours"));
        assert!(!removes(&news(gone, "theirs"), "ours"));
        assert!(!removes(&news(gone - 1, "ours"), "ours"), "it is made, not removed");
        let mut both = news(gone - 1, "ours");
        both.extend(news(gone, "ours"));
        assert!(removes(&both, "ours"));
        assert!(!removes(&both[..both.len() - 30], "ours"), "it is cut off");
    }

    #[test]
    fn only_chains_that_see_what_is_forwarded_are_heard() {
        let heard = |family: u8, kind: u16, hook: Option<u32>| {
            let mut message = Message::new(kind, 0, &[family, 0, 0, 0]);
            message.text(1, "filter").text(3, "chain");
            if let Some(hook) = hook {
                message.nest(4, |attributes| {
                    attributes.be32(1, hook).be32(2, 0);
                });
            }
            let news = message.finish(1);
            Messages(&news).any(|m| nft::is_forward_chain(m.kind, m.payload))
        };
        let made = 0x0a03;
        for family in [1, 2, 10] {
            assert!(heard(family, made, Some(2)));
        }
        assert!(!heard(7, made, Some(2)), "a bridge's");
        assert!(!heard(2, made, Some(3)), "of what the host sends");
        assert!(!heard(2, made, None), "called by another chain");
        assert!(!heard(2, made + 2, Some(2)), "it is gone");
    }
}
