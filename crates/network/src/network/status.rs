//! Whether pods can be attached: what is configured, and what the plugins say (STATUS).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::{Chosen, Network, blocking, chain_text};
use crate::{
    NetworkStatus,
    cni::{self, Loaded, Runtime, Version},
    records::Engine,
};

/// How old a status may be: configurations are looked at again after this long.
const STATUS_AGE: Duration = Duration::from_secs(1);
/// How long after an answer the plugins are asked again, at the earliest.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How long the plugins may take to answer: they are asked in the background.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How long the first answer is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// The reason that the kubelet knows.
const NOT_READY: &str = "NetworkPluginNotReady";

/// What is known.
#[derive(Debug, Default)]
pub(super) struct StatusMemory {
    known: Mutex<Option<(Instant, NetworkStatus)>>,
    plugins: Mutex<Plugins>,
    /// Told when an answer has come.
    answered: tokio::sync::Notify,
}

/// What the plugins have said.
#[derive(Debug, Default)]
struct Plugins {
    /// About which configuration.
    conf: Value,
    asking: bool,
    asked_at: Option<Instant>,
    /// The last answer: an error's text.
    answer: Option<Result<(), String>>,
    /// When they were content last, or when failing began without that.
    good_until: Option<Instant>,
}

impl StatusMemory {
    /// Forgets what was said last, so that the next one who asks has it looked for.
    pub(super) fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Network {
    pub(super) async fn current_status(self: &Arc<Self>) -> NetworkStatus {
        let known = self.status.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, status)) = known
            && at.elapsed() < STATUS_AGE
        {
            return status;
        }
        let network = Arc::clone(self);
        let looked = blocking("status", move || Ok(network.look())).await;
        let (mut status, chosen) =
            looked.unwrap_or_else(|error| (not_ready(error.to_string(), Value::Null), None));
        if let Some(chosen) = chosen
            && let Err(problem) = self.plugins_say(&chosen).await
        {
            status = not_ready(problem, status.config);
        }
        let mut known = self.status.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((Instant::now(), status.clone()));
        status
    }

    /// Looks at the configuration; returns the chain whose plugins are to be asked.
    fn look(&self) -> (NetworkStatus, Option<Chosen>) {
        let loaded = self.loaded("", STATUS_AGE);
        let chosen = match self.choose("", STATUS_AGE) {
            Ok(chosen) => chosen,
            Err(crate::NetworkError::NotReady { message }) => {
                return (not_ready(message, self.summary(&loaded, None)), None);
            }
            Err(error) => return (not_ready(error.to_string(), Value::Null), None),
        };
        let config = self.summary(&loaded, Some(&chosen));
        if chosen.engine != Engine::Programs {
            return (ready(config), None);
        }
        match cni::find_programs(&chosen.list, &self.options.bin_dirs) {
            Err((plugin, failure)) => {
                let file = loaded.selected.as_ref().map(|(file, _)| file.display().to_string());
                let of = file.unwrap_or_else(|| "the default network".to_owned());
                (not_ready(format!("{of}: plugin \"{plugin}\": {failure}"), config), None)
            }
            Ok(()) => {
                let asks = chosen.list.version >= Version::V1_1_0;
                (ready(config), asks.then_some(chosen))
            }
        }
    }

    /// Returns what the plugins said last, and has them asked again where that is old.
    async fn plugins_say(self: &Arc<Self>, chosen: &Chosen) -> Result<(), String> {
        // Before the lock, so that no answer is missed.
        let answered = self.status.answered.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        self.ask(chosen);
        let first = self.plugins().answer.is_none();
        if first {
            let _ = tokio::time::timeout(FIRST_ANSWER, answered).await;
        }
        let plugins = self.plugins();
        match &plugins.answer {
            None => Err("the CNI plugins have not answered STATUS yet".to_owned()),
            Some(Ok(())) => Ok(()),
            Some(Err(problem)) => {
                let grace = self.options.status_grace;
                let lately = plugins.good_until.is_some_and(|good| good.elapsed() < grace);
                if lately { Ok(()) } else { Err(problem.clone()) }
            }
        }
    }

    fn ask(self: &Arc<Self>, chosen: &Chosen) {
        let mut plugins = self.plugins();
        if plugins.conf != chosen.list.raw {
            // Another network: what the old one's plugins said counts no more.
            *plugins = Plugins { conf: chosen.list.raw.clone(), ..Plugins::default() };
        }
        let fresh = plugins.asked_at.is_some_and(|at| at.elapsed() < ASK_AGAIN);
        // While they fail they are asked at every look.
        if plugins.asking || fresh && matches!(plugins.answer, Some(Ok(()))) {
            return;
        }
        plugins.asking = true;
        drop(plugins);
        let (network, chosen) = (Arc::clone(self), chosen.clone());
        tokio::spawn(async move {
            let nobody = Runtime {
                container_id: String::new(),
                netns: std::path::PathBuf::new(),
                arguments: Vec::new(),
                capabilities: Map::new(),
            };
            let answer = network.chain(&chosen.list, &nobody, ANSWER_DEADLINE).status().await;
            network.remember(&chosen, answer.map_err(|error| chain_text(&error)));
        });
    }

    fn remember(&self, chosen: &Chosen, answer: Result<(), String>) {
        let mut plugins = self.plugins();
        if plugins.conf == chosen.list.raw {
            let now = Instant::now();
            if let Err(problem) = &answer
                && !matches!(plugins.answer, Some(Err(_)))
            {
                tracing::warn!(problem, network = chosen.list.name, "CNI plugins are not ready");
            }
            if answer.is_ok() {
                plugins.good_until = Some(now);
            }
            plugins.asking = false;
            plugins.asked_at = Some(now);
            plugins.answer = Some(answer);
        }
        drop(plugins);
        self.status.answered.notify_waiters();
    }

    fn plugins(&self) -> std::sync::MutexGuard<'_, Plugins> {
        self.status.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn summary(&self, loaded: &Loaded, chosen: Option<&Chosen>) -> Value {
        let invalid: Vec<_> = loaded
            .invalid
            .iter()
            .map(|(file, problem)| json!({ "file": file, "problem": problem }))
            .collect();
        let standard = chosen.filter(|_| loaded.selected.is_none());
        json!({
            "confDir": self.options.conf_dir,
            "binDirs": self.options.bin_dirs,
            "file": loaded.selected.as_ref().map(|(file, _)| file),
            "config": chosen.map(|chosen| &chosen.list.raw),
            "inProcess": chosen.map(|chosen| chosen.engine != Engine::Programs),
            "builtinNetwork": standard.map(|chosen| &chosen.list.name),
            "invalid": invalid,
        })
    }
}

fn ready(config: Value) -> NetworkStatus {
    NetworkStatus { ready: true, reason: String::new(), message: String::new(), config }
}

fn not_ready(message: String, config: Value) -> NetworkStatus {
    NetworkStatus { ready: false, reason: NOT_READY.to_owned(), message, config }
}
