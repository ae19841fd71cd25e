//! `sd_notify(3)`: telling a service manager how far the daemon is.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

use tracing::warn;

/// Tells the service manager, where there is one.
pub(crate) fn tell(state: &str) {
    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let target = target.to_string_lossy().into_owned();
    let send = || -> std::io::Result<()> {
        let address = match target.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&target)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
    };
    if let Err(error) = send() {
        warn!(%error, "the service manager was not told {state}");
    }
}

#[cfg(test)]
mod tests {
    /// The daemon's own process is the test here: see the end-to-end tests for the message itself.
    #[test]
    fn without_a_manager_nothing_is_said() {
        super::tell("READY=1");
    }
}
