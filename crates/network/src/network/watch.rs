//! What is noticed at once, without anybody asking: rules that others take away, and
//! configurations that come and go.

use std::{sync::Arc, time::Duration};

use super::{Network, blocking};
use crate::{cni::Notice, netlink::TableChanges};

/// How long no rules are looked at after a look. A flush of all rules is many news.
const REST: Duration = Duration::from_millis(100);
/// The same after rules were made anew: another program may do it again and again.
const REST_AFTER_REPAIR: Duration = Duration::from_secs(1);

impl Network {
    pub(super) async fn keep_rules_for_ever(self: &Arc<Self>) {
        let mut changes = match TableChanges::open() {
            Ok(changes) => changes,
            Err(error) => {
                let text = "rules that other programs remove come back only with a cleaning";
                return tracing::warn!(%error, "{text}");
            }
        };
        loop {
            // Also at the beginning: what was changed before is not heard of.
            let rest = if self.repair_rules().await { REST_AFTER_REPAIR } else { REST };
            tokio::time::sleep(rest).await;
            if let Err(error) = changes.removal_from(self.native.table()).await {
                return tracing::warn!(%error, "changes of rules are not heard of any more");
            }
        }
    }

    pub(super) async fn watch_directories(self: &Arc<Self>) {
        let handlers = self.options.handler_conf_dirs.values();
        let paths = std::iter::once(&self.options.conf_dir).chain(handlers).cloned().collect();
        let mut notice = match Notice::open(paths) {
            Ok(notice) => notice,
            Err(error) => {
                let text = "CNI configurations are looked at only when somebody asks";
                return tracing::warn!(%error, "{text}");
            }
        };
        loop {
            let network = Arc::clone(self);
            let looked = blocking("configuration", move || {
                network.look_again();
                Ok(())
            });
            if let Err(error) = looked.await {
                tracing::warn!(%error, "CNI configurations cannot be looked at");
            }
            if let Err(error) = notice.changed().await {
                return tracing::warn!(%error, "CNI configurations are not watched any more");
            }
        }
    }

    /// Reads all directories, which tells the log what has changed, and makes the next
    /// status a new one.
    fn look_again(&self) {
        for directory in std::iter::once(&self.directory).chain(self.handler_directories.values()) {
            directory.current(Duration::ZERO);
        }
        self.status.forget();
    }

    /// Makes rules anew where others have removed them, and says so.
    pub(super) async fn repair_rules(self: &Arc<Self>) -> bool {
        let network = Arc::clone(self);
        match blocking("rules", move || network.native.restore_missing_rules()).await {
            Ok(false) => false,
            Ok(true) => {
                tracing::warn!("another program had removed the rules of pods: they are made anew");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the rules of pods cannot be looked at");
                false
            }
        }
    }
}
