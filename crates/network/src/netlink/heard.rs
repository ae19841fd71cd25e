//! Hearing of what is taken out of nf_tables, by whomever.

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
        loop {
            let mut ready = self.socket.readable().await?;
            loop {
                match recv(ready.get_inner().as_fd(), &mut self.buffer[..], RecvFlags::empty()) {
                    Ok((length, _)) if removes(&self.buffer[..length], table) => return Ok(()),
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
}
