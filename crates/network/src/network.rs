//! The pod network as the core sees it.

use std::{path::Path, sync::Arc};

use types::SandboxId;

use crate::{
    AttachRequest, Attachment, DetachRequest, NetworkError, NetworkOptions, NetworkStatus,
    RecoverReport,
};

/// The pod network of a node.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
}

impl Network {
    /// Opens the network: makes its directories and reads the configuration.
    ///
    /// # Errors
    ///
    /// Where the state directories cannot be made or the options are not usable. A
    /// missing or invalid CNI configuration is no error: [`Network::status`] tells it.
    pub fn new(options: NetworkOptions) -> Result<Arc<Self>, NetworkError> {
        Ok(Arc::new(Self { options }))
    }

    /// Reports whether pods can be attached.
    pub async fn status(&self) -> NetworkStatus {
        todo!("{:?}", self.options)
    }

    /// Sets `lo` of a network namespace up.
    ///
    /// # Errors
    ///
    /// Where the namespace cannot be entered or the kernel refuses.
    pub async fn setup_loopback(&self, netns: &Path) -> Result<(), NetworkError> {
        todo!("{netns:?}")
    }

    /// Gives a pod its network, `lo` included. What failed has been undone as far as
    /// possible; what could not be undone is owed and settled by [`Network::detach`] or
    /// [`Network::recover`].
    ///
    /// # Cancellation
    ///
    /// The work goes on when the caller leaves.
    ///
    /// # Errors
    ///
    /// Where no network is ready or a step fails; the text names plugin and step.
    pub async fn attach(
        self: &Arc<Self>,
        request: &AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        todo!("{request:?}")
    }

    /// Takes a pod's network away by the records of [`Network::attach`]: idempotent, and
    /// works without the namespace and without the configuration.
    ///
    /// # Cancellation
    ///
    /// The work goes on when the caller leaves.
    ///
    /// # Errors
    ///
    /// Where a step fails. The debt stays on disk: the caller may retry, or remove the pod
    /// and leave the debt to [`Network::recover`].
    pub async fn detach(self: &Arc<Self>, request: &DetachRequest) -> Result<(), NetworkError> {
        todo!("{request:?}")
    }

    /// Asks the plugins whether a pod's network is as it was made (CHECK).
    ///
    /// # Errors
    ///
    /// Where the pod has no network or a plugin finds fault.
    pub async fn check(self: &Arc<Self>, sandbox_id: &SandboxId) -> Result<(), NetworkError> {
        todo!("{sandbox_id:?}")
    }

    /// Returns what a sandbox got from [`Network::attach`], from the records.
    ///
    /// # Errors
    ///
    /// Where the record cannot be read.
    pub async fn attachment(
        &self,
        sandbox_id: &SandboxId,
    ) -> Result<Option<Attachment>, NetworkError> {
        todo!("{sandbox_id:?}")
    }

    /// Takes away all that belongs to no known sandbox, and makes the rules of the known
    /// ones anew. To be called at start, before the first attach, and then at will.
    ///
    /// # Errors
    ///
    /// Where the records cannot be listed. What single sandboxes still owe is in the report.
    pub async fn recover(
        self: &Arc<Self>,
        known: &[SandboxId],
    ) -> Result<RecoverReport, NetworkError> {
        todo!("{known:?}")
    }
}
