//! ADD: the intent on disk, the chain, what it gave on disk; and its undoing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Network, blocking};
use crate::{
    AttachRequest, Attachment, NetworkError,
    cni::{self, NetworkList, Runtime, arguments, capability_arguments},
    figures::Operation,
    namespace,
    native::{Job, Plan},
    records::{Engine, Record},
};

/// An ADD whose intent is on disk.
#[derive(Debug)]
struct Intent {
    list: NetworkList,
    plan: Option<Plan>,
    runtime: Runtime,
    record: Record,
}

/// What the first step of an attach has come to.
#[derive(Debug)]
enum Begun {
    /// This process has run the chain.
    Done { engine: Engine, has_firewall: bool, attached: Result<Attachment, NetworkError> },
    /// Programs are to run it.
    Programs(Box<Intent>),
}

impl Network {
    pub(super) async fn attach_all(
        self: Arc<Self>,
        request: AttachRequest,
    ) -> Result<Attachment, NetworkError> {
        let (begun, mut engine) = (Instant::now(), None);
        let attached = self.attach_by(request, &mut engine).await;
        self.figures.count(Operation::Add, engine, begun, &attached);
        attached
    }

    /// Gives a pod its network; `engine` is told who does.
    async fn attach_by(
        self: &Arc<Self>,
        request: AttachRequest,
        engine: &mut Option<Engine>,
    ) -> Result<Attachment, NetworkError> {
        // What an earlier attempt left would be in the way, and its record overwritten.
        Arc::clone(self).settle_attach(request.sandbox_id.clone()).await?;
        let sandbox_id = request.sandbox_id.clone();
        let known = Arc::clone(&self.collecting).read_owned().await;
        let network = Arc::clone(self);
        let begun = blocking("attach", move || {
            let intent = network.intend(&request)?;
            drop(known);
            let Some(plan) = &intent.plan else { return Ok(Begun::Programs(Box::new(intent))) };
            let (engine, has_firewall) = (intent.record.engine, plan.has_firewall());
            Ok(Begun::Done { engine, has_firewall, attached: network.attach_native(intent) })
        });
        match begun.await? {
            Begun::Done { engine: ours, has_firewall, attached } => {
                *engine = Some(ours);
                if attached.is_ok() && has_firewall {
                    self.look_for_filter(&sandbox_id).await;
                }
                attached
            }
            Begun::Programs(intent) => {
                *engine = Some(intent.record.engine);
                self.attach_by_programs(*intent).await
            }
        }
    }

    /// Chooses the chain and writes down that it is about to be run.
    fn intend(&self, request: &AttachRequest) -> Result<Intent, NetworkError> {
        let chosen = self.choose(&request.handler, Duration::ZERO)?;
        let runtime = Runtime {
            container_id: request.sandbox_id.to_string(),
            netns: request.netns.clone(),
            arguments: arguments(request)?,
            capabilities: capability_arguments(request)?,
        };
        if chosen.engine == Engine::Programs {
            // Before anything is owed: what cannot begin needs no undoing.
            self.chain(&chosen.list, &runtime, self.options.add_deadline).find_programs("ADD")?;
            namespace::setup_loopback(&request.netns)?;
        } else {
            namespace::open(&request.netns)?;
        }
        let record = Record::new(
            request.sandbox_id.clone(),
            request.netns.clone(),
            chosen.list.raw.clone(),
            chosen.engine,
            runtime.arguments.clone(),
            runtime.capabilities.clone(),
        );
        self.records.store(&record)?;
        Ok(Intent { list: chosen.list, plan: chosen.plan, runtime, record })
    }

    fn attach_native(&self, intent: Intent) -> Result<Attachment, NetworkError> {
        let Intent { list, plan, runtime, mut record } = intent;
        let plan = plan.ok_or_else(|| NetworkError::NotReady { message: "no plan".to_owned() })?;
        let job = Job {
            id: &record.sandbox_id.clone(),
            netns: &runtime.netns,
            capabilities: &runtime.capabilities,
            standard: record.engine == Engine::Standard,
        };
        let added = self.native.add(&plan, &job);
        let attached = added.and_then(|result| self.seal(&mut record, &list, &runtime, &result));
        if attached.is_err()
            && let Err(error) = self.remove_native(&record)
        {
            let id = &record.sandbox_id;
            tracing::warn!(%error, sandbox_id = %id, "a failed attach is not undone yet");
        }
        attached
    }

    async fn attach_by_programs(
        self: &Arc<Self>,
        intent: Intent,
    ) -> Result<Attachment, NetworkError> {
        let Intent { list, runtime, mut record, .. } = intent;
        let failure = match self.chain(&list, &runtime, self.options.add_deadline).add().await {
            Ok(result) => {
                let (network, list, runtime) = (Arc::clone(self), list.clone(), runtime.clone());
                let (mut sealed, given) = (record.clone(), result.clone());
                let attached =
                    blocking("attach", move || network.seal(&mut sealed, &list, &runtime, &given));
                match attached.await {
                    Ok(attachment) => return Ok(attachment),
                    Err(error) => cni::ChainFailure { error, result: Some(result) },
                }
            }
            Err(failure) => failure,
        };
        record.attachment = None;
        self.undo(&record, &list, &runtime, failure.result.as_ref()).await;
        Err(failure.error)
    }

    /// Writes down what ADD gave.
    fn seal(
        &self,
        record: &mut Record,
        list: &NetworkList,
        runtime: &Runtime,
        result: &Value,
    ) -> Result<Attachment, NetworkError> {
        let ips = cni::pod_addresses(result, self.options.ip_preference);
        let network = list.name.clone();
        if ips.is_empty() {
            let sandbox_id = record.sandbox_id.clone();
            return Err(NetworkError::NoAddress { network, sandbox_id });
        }
        let builtin = record.engine == Engine::Standard;
        let attachment = Attachment { ips, network, builtin, result: result.clone() };
        record.attachment = Some(attachment.clone());
        self.results.store(list, runtime, result)?;
        self.records.store(record)?;
        Ok(attachment)
    }

    /// Runs DEL after a failed ADD. Where that fails too, the debt stays.
    async fn undo(
        self: &Arc<Self>,
        record: &Record,
        list: &NetworkList,
        runtime: &Runtime,
        result: Option<&Value>,
    ) {
        let deleted = self.chain(list, runtime, self.options.del_deadline).delete(result).await;
        let (network, name) = (Arc::clone(self), list.name.clone());
        let id = record.sandbox_id.clone();
        let forgotten = match deleted {
            Ok(()) => blocking("attach", move || network.forget(Some(&name), &id)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            let id = &record.sandbox_id;
            tracing::warn!(%error, sandbox_id = %id, "a failed attach is not undone yet");
        }
    }
}
