//! The gate before calls that need a complete picture.
//!
//! The sockets open when Version and ImageFsInfo can answer. Everything else waits
//! here until recovery is over: an incomplete list would make the kubelet start
//! its pods a second time.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use tonic::Status;

/// How long a call waits for recovery before it says that the daemon is not ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the gate.
#[derive(Debug)]
pub struct GateKeeper(watch::Sender<bool>);

impl GateKeeper {
    /// Makes a closed gate.
    pub fn new() -> (Self, Gate) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Gate(receiver))
    }

    /// Lets all calls pass from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

/// A gate that opens when recovery is over.
#[derive(Debug, Clone)]
pub struct Gate(watch::Receiver<bool>);

impl Gate {
    /// Waits until the gate is open.
    ///
    /// # Errors
    /// `Unavailable` where that takes too long.
    pub(crate) async fn pass(&self) -> Result<(), Status> {
        let mut open = self.0.clone();
        match timeout(PATIENCE, open.wait_for(|open| *open)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(Status::unavailable("the daemon is still recovering its pods: ask again"))
            }
        }
    }

    /// Whether the gate is open.
    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }
}
