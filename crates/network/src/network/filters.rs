//! Filters of what is forwarded that come after a pod.
//!
//! A chain with `firewall` runs in this process only where nothing filters what is forwarded.
//! Where something begins to later, the plugin's program is run for each pod of such a chain,
//! as in its turn in the chain, so that the filter knows the pod as it knows those that
//! programs have made. What the program makes is owed back from before it begins.
//!
//! ```text
//!  attached ──a filter is seen──► noted as begun ──ADD──► noted as done
//!      └───────────────► detached; where there is a note, by DEL ◄──┘
//! ```
//!
//! A pod that goes waits for a program that runs for it, and no other does: rules do not come
//! back after their pod.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use types::SandboxId;

use super::{Network, blocking};
use crate::{
    NetworkError,
    cni::{NetworkList, Runtime},
    native::forwarding_is_filtered,
    netlink::TableChanges,
    records::{Firewalled, Record},
};

/// The plugin whose program is run.
const PLUGIN: &str = "firewall";
/// How long a pod's program may take: its end waits for it.
const LIMIT: Duration = Duration::from_secs(15);
/// How many programs run at once: iptables lets one of them change the rules.
const AT_ONCE: usize = 4;
/// How long is waited between two looks where no news come: iptables' older side tells none.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long no filters are looked for after a look. A firewall that is loaded is many news.
const REST: Duration = Duration::from_millis(100);
/// The same where programs have failed, at first and at most.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Pods that no filter knows yet.
#[derive(Debug, Default)]
pub(super) struct Unfiltered {
    pods: Mutex<BTreeMap<SandboxId, Turn>>,
    /// Told when there is a pod again.
    come: Notify,
}

/// Held while a program runs for a pod.
type Turn = Arc<tokio::sync::Mutex<()>>;

impl Unfiltered {
    /// Takes a pod on.
    pub(super) fn add(&self, id: &SandboxId) {
        self.pods().entry(id.clone()).or_default();
        self.come.notify_one();
    }

    /// Gives a pod up: when it returns no program runs for it, nor will one.
    async fn leave(&self, id: &SandboxId) {
        let turn = self.pods().remove(id);
        if let Some(turn) = turn {
            drop(turn.lock().await);
        }
    }

    /// Waits until there is a pod.
    async fn some(&self) {
        while self.pods().is_empty() {
            self.come.notified().await;
        }
    }

    fn has(&self, id: &SandboxId, turn: &Turn) -> bool {
        self.pods().get(id).is_some_and(|known| Arc::ptr_eq(known, turn))
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Turn>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Never returns.
    pub(super) async fn follow_filters(self: &Arc<Self>) {
        let mut changes = TableChanges::open()
            .inspect_err(|error| tracing::warn!(%error, "filters are only looked for"))
            .ok();
        let mut rest = REST_AFTER_FAILURE;
        loop {
            self.unfiltered.some().await;
            // Also at the beginning: what was there before is not heard of.
            if let Err(error) = self.tell_filters().await {
                let problem = super::chain_text(&error);
                let pods = self.unfiltered.pods().len();
                tracing::warn!(problem, pods, "a filter does not know pods that were there before");
                sleep(rest).await;
                rest = LONGEST_REST.min(rest * 2);
                continue;
            }
            rest = REST_AFTER_FAILURE;
            sleep(REST).await;
            let Some(heard) = &mut changes else {
                sleep(LOOK_AGAIN).await;
                continue;
            };
            if let Ok(Err(error)) = timeout(LOOK_AGAIN, heard.forward_chain()).await {
                tracing::warn!(%error, "filters are not heard of any more");
                changes = None;
            }
        }
    }

    /// Runs the program for all pods where there is a filter that does not know them. The
    /// first failure is returned; they do not keep others from being made known.
    async fn tell_filters(self: &Arc<Self>) -> Result<(), NetworkError> {
        if !blocking("filters", || Ok(forwarding_is_filtered())).await? {
            return Ok(());
        }
        let pods = self.unfiltered.pods().clone();
        let (places, mut running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for (id, turn) in pods {
            let (network, places) = (Arc::clone(self), Arc::clone(&places));
            running.spawn(async move {
                let _place = places.acquire().await;
                network.tell_filter(&id, &turn).await
            });
        }
        let mut first = Ok(());
        while let Some(told) = running.join_next().await {
            let told = told
                .map_err(|source| NetworkError::Worker { task: "filters", source: source.into() });
            first = first.and(told.and_then(|told| told));
        }
        first
    }

    /// Takes a new pod on, and makes it known where a filter has come while it was made.
    pub(super) async fn look_for_filter(self: &Arc<Self>, id: &SandboxId) {
        self.unfiltered.add(id);
        let filtered = blocking("filters", || Ok(forwarding_is_filtered())).await;
        let turn = self.unfiltered.pods().get(id).cloned();
        let told = match (filtered, turn) {
            (Ok(true), Some(turn)) => self.tell_filter(id, &turn).await,
            (Err(error), _) => Err(error),
            _ => Ok(()),
        };
        if let Err(error) = told {
            let problem = super::chain_text(&error);
            tracing::warn!(problem, sandbox_id = %id, "a filter does not know the pod yet");
        }
    }

    async fn tell_filter(
        self: &Arc<Self>,
        id: &SandboxId,
        turn: &Turn,
    ) -> Result<(), NetworkError> {
        let _turn = turn.lock().await;
        if !self.unfiltered.has(id, turn) {
            return Ok(());
        }
        let record = self.load(id.clone()).await?;
        let attached = record.and_then(|record| Some((record.attachment.clone()?.result, record)));
        if let Some((result, record)) = attached {
            let (list, runtime) = self.chain_of(&record)?;
            let list = firewall_of(&list);
            let limit = LIMIT.min(self.options.add_deadline);
            let chain = self.chain(&list, &runtime, limit);
            // Before anything is owed: a program that is not there needs no undoing.
            chain.find_programs("ADD")?;
            self.note(id, Firewalled::Begun).await?;
            chain.add_to(Some(result)).await.map_err(|failure| failure.error)?;
            self.note(id, Firewalled::Done).await?;
            tracing::info!(sandbox_id = %id, "a filter that came after the pod knows it now");
        }
        self.unfiltered.pods().remove(id);
        Ok(())
    }

    /// Undoes for a pod that goes what the program has made, if it was run.
    pub(super) async fn leave_filter(
        self: &Arc<Self>,
        record: &Record,
        list: &NetworkList,
        runtime: &Runtime,
    ) -> Result<(), NetworkError> {
        let list = firewall_of(list);
        if list.plugins.is_empty() {
            return Ok(());
        }
        let id = &record.sandbox_id;
        self.unfiltered.leave(id).await;
        let (network, noted) = (Arc::clone(self), id.clone());
        let noted = blocking("filters", move || Ok(network.records.firewalled(&noted)));
        if noted.await?.is_none() {
            return Ok(());
        }
        let result = record.attachment.as_ref().map(|attachment| &attachment.result);
        self.chain(&list, runtime, self.options.del_deadline).delete(result).await?;
        let (network, id) = (Arc::clone(self), id.clone());
        blocking("filters", move || network.records.forget_firewall(&id)).await
    }

    async fn note(self: &Arc<Self>, id: &SandboxId, state: Firewalled) -> Result<(), NetworkError> {
        let (network, id) = (Arc::clone(self), id.clone());
        blocking("filters", move || network.records.note_firewall(&id, state)).await
    }
}

/// The part of a chain that is run by a program.
fn firewall_of(list: &NetworkList) -> NetworkList {
    let mut list = list.clone();
    list.plugins.retain(|plugin| plugin.kind == PLUGIN);
    list
}
