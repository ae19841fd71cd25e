//! A connection that a test has in its hand.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt;

use crate::wait;

/// How long the client may take to connect.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much is passed at a time.
const CHUNK: usize = 32 << 10;

/// Stands between a server and one client, whose bytes it passes on. Dropped, it resets the
/// connection to the server, as a client does whose machine or process is lost.
pub struct Between {
    address: SocketAddr,
    shared: Arc<Shared>,
    passing: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// The client's and the server's, once there are both.
    sockets: Mutex<Option<[TcpStream; 2]>>,
    stalled: AtomicBool,
    ended: AtomicBool,
}

impl Between {
    /// Waits for a client, which it will connect with a server.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn new(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("failed to listen")?;
        let address = listener.local_addr().context("a listener without an address")?;
        let shared = Arc::new(Shared::default());
        let passing = thread::spawn({
            let shared = shared.clone();
            move || shared.pass(&listener, server)
        });
        Ok(Self { address, shared, passing: Some(passing) })
    }

    /// Where the client is to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// By which address the server knows the client.
    ///
    /// # Errors
    /// If there is none yet, and none comes.
    pub fn client(&self) -> Result<SocketAddr> {
        wait::until(PATIENCE, "a client", || {
            let sockets = self.shared.sockets();
            sockets.as_ref().map(|[_, server]| Ok(server.local_addr()?)).transpose()
        })
    }

    /// Reads nothing of the server's any more, but for what is being read.
    pub fn stall(&self) {
        self.shared.stalled.store(true, Ordering::Release);
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some([client, server]) = &*self.shared.sockets() {
            let _ = client.shutdown(Shutdown::Both);
            // Nothing is told to the server by that, but who reads here stops.
            let _ = server.shutdown(Shutdown::Read);
        } else {
            let _ = TcpStream::connect(self.address);
        }
        let _ = self.passing.take().map(JoinHandle::join);
        // The last one of each closes it.
        self.shared.sockets().take();
    }
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, Option<[TcpStream; 2]>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn pass(&self, listener: &TcpListener, server: SocketAddr) -> io::Result<()> {
        let (client, _) = listener.accept()?;
        if self.is_ended() {
            return Ok(());
        }
        let server = TcpStream::connect(server)?;
        sockopt::set_socket_linger(&server, Some(Duration::ZERO))?;
        *self.sockets() = Some([client.try_clone()?, server.try_clone()?]);
        thread::scope(|scope| {
            let there = scope.spawn(|| self.copy(&client, &server, || false));
            self.copy(&server, &client, || self.stalled.load(Ordering::Acquire))?;
            there.join().unwrap_or(Ok(()))
        })
    }

    fn copy(
        &self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        stalls: impl Fn() -> bool,
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            while stalls() && !self.is_ended() {
                thread::sleep(wait::interval());
            }
            let count = from.read(&mut buffer)?;
            if self.is_ended() {
                return Ok(());
            }
            if count == 0 {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&buffer[..count])?;
        }
    }
}
