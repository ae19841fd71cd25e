//! What is owed back: one record a sandbox, there before the first step of an attach and
//! gone after the last of a detach.
//!
//! A record holds all that DEL needs, the configuration included. Where programs run the
//! chain it is synced before ADD: addresses that plugins took outlive a power cut, so must
//! the debt. Where this process runs the chain it is not: its leases name their owners.
//!
//! ```text
//!  <id>.json            the debt, before the first step
//!  <id>.attached.json   the debt and what ADD gave
//!  <id>.firewall        the program of `firewall` is run too, and whether it has succeeded
//!  <id>.going           all is undone but what the kernel does by itself
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use types::SandboxId;

use crate::{
    Attachment, NetworkError,
    files::{self, Strength},
};

/// The format's version.
const VERSION: u32 = 2;
/// The longest record: a configuration (1 MiB) and a result (1 MiB), both escaped.
const MAX_RECORD_BYTES: u64 = 8 * 1024 * 1024;

/// A record of a chain of three plugins has less.
const USUAL_RECORD_BYTES: usize = 8 * 1024;

/// What a sandbox owes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) sandbox_id: SandboxId,
    pub(crate) netns: PathBuf,
    /// The configuration list.
    pub(crate) conf: Value,
    /// Who runs it.
    pub(crate) engine: Engine,
    /// CNI_ARGS.
    pub(crate) arguments: Vec<(String, String)>,
    /// Arguments that plugins ask for by their capabilities.
    pub(crate) capabilities: Map<String, Value>,
    /// What ADD gave; missing while it is under way.
    pub(crate) attachment: Option<Attachment>,
}

/// Who runs a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Engine {
    /// The plugin programs.
    Programs,
    /// This process.
    Native,
    /// This process, and it is the default network's chain.
    Standard,
}

impl Record {
    /// Begins a record of a chain that is about to be run for a sandbox.
    pub(crate) fn new(
        sandbox_id: SandboxId,
        netns: PathBuf,
        conf: Value,
        engine: Engine,
        arguments: Vec<(String, String)>,
        capabilities: Map<String, Value>,
    ) -> Self {
        let version = VERSION;
        let attachment = None;
        Self { version, sandbox_id, netns, conf, engine, arguments, capabilities, attachment }
    }

    /// Returns the name of the network.
    pub(crate) fn network(&self) -> &str {
        self.conf["name"].as_str().unwrap_or_default()
    }

    fn strength(&self) -> Strength {
        match (self.engine, &self.attachment) {
            // With the attachment it is written again, and only the debt matters.
            (Engine::Programs, None) => Strength::Power,
            _ => Strength::Process,
        }
    }
}

/// How far the program of `firewall` is for a pod whose chain this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewalled {
    /// It may have made something.
    Begun,
    /// It has succeeded.
    Done,
}

/// What the note of [`Firewalled::Done`] says. Any other is of one that has begun.
const DONE: &str = "done";

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self { dir: cache_dir.join("owed") }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a record. The attachment is kept in a file of its own: a power cut that
    /// spoils it leaves the debt readable.
    pub(crate) fn store(&self, record: &Record) -> Result<(), NetworkError> {
        let path = match record.attachment {
            None => self.path(&record.sandbox_id),
            Some(_) => self.attached_path(&record.sandbox_id),
        };
        let text = serde_json::to_vec(record)
            .map_err(|source| NetworkError::DamagedRecord { path: path.clone(), source })?;
        files::write(&path, &text, record.strength())
    }

    /// Reads a record; `None` where the sandbox owes nothing.
    pub(crate) fn load(&self, id: &SandboxId) -> Result<Option<Record>, NetworkError> {
        match read(&self.attached_path(id)) {
            Ok(Some(record)) => return Ok(Some(record)),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, sandbox_id = %id, "using the older record"),
        }
        read(&self.path(id))
    }

    /// Notes that all is undone but what the kernel does by itself.
    pub(crate) fn mark_going(&self, id: &SandboxId) -> Result<(), NetworkError> {
        let path = self.going_path(id);
        File::create(&path).map(drop).map_err(|source| files::failed("write", &path, source))
    }

    /// Reports whether all is undone but what the kernel does by itself.
    pub(crate) fn is_going(&self, id: &SandboxId) -> bool {
        self.going_path(id).exists()
    }

    /// Notes how far the program of `firewall` is. Rules go with the power, so may the note.
    pub(crate) fn note_firewall(
        &self,
        id: &SandboxId,
        state: Firewalled,
    ) -> Result<(), NetworkError> {
        let path = self.firewall_path(id);
        let text = match state {
            Firewalled::Begun => "",
            Firewalled::Done => DONE,
        };
        fs::write(&path, text).map_err(|source| files::failed("write", &path, source))
    }

    /// Notes that nothing of the program of `firewall` is left.
    pub(crate) fn forget_firewall(&self, id: &SandboxId) -> Result<(), NetworkError> {
        files::remove_plain(&self.firewall_path(id))
    }

    /// Returns how far the program of `firewall` is, if it was run.
    pub(crate) fn firewalled(&self, id: &SandboxId) -> Option<Firewalled> {
        match fs::read_to_string(self.firewall_path(id)) {
            Ok(text) if text == DONE => Some(Firewalled::Done),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // What cannot be read may be owed.
            Ok(_) | Err(_) => Some(Firewalled::Begun),
        }
    }

    /// Removes a record. The debt goes last, then the note on it.
    pub(crate) fn remove(&self, id: &SandboxId) -> Result<(), NetworkError> {
        self.forget_firewall(id)?;
        files::remove(&self.attached_path(id))?;
        files::remove(&self.path(id))?;
        files::remove_plain(&self.going_path(id))
    }

    /// Returns all sandboxes that owe something.
    pub(crate) fn list(&self) -> Result<Vec<SandboxId>, NetworkError> {
        let failed = |source| files::failed("list", &self.dir, source);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let id = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            ids.extend(id);
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    fn path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn going_path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.going"))
    }

    fn firewall_path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.firewall"))
    }

    fn attached_path(&self, id: &SandboxId) -> PathBuf {
        self.dir.join(format!("{id}.attached.json"))
    }
}

fn read(path: &Path) -> Result<Option<Record>, NetworkError> {
    // Room for all of a usual one, so that it is read at once.
    let mut text = Vec::with_capacity(USUAL_RECORD_BYTES);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(files::failed("read", path, source)),
    };
    file.take(MAX_RECORD_BYTES)
        .read_to_end(&mut text)
        .map_err(|source| files::failed("read", path, source))?;
    let damaged = |source| NetworkError::DamagedRecord { path: path.to_owned(), source };
    let record: Record = serde_json::from_slice(&text).map_err(damaged)?;
    if record.version != VERSION {
        let text = format!("its version is {}", record.version);
        return Err(damaged(serde::de::Error::custom(text)));
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spoilt_attachment_leaves_the_debt() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path());
        files::make_dir(records.dir()).unwrap();
        let id = SandboxId::random();
        assert_eq!(records.load(&id).unwrap(), None);
        let conf = serde_json::json!({ "name": "n" });
        let arguments = vec![("a".to_owned(), "b".to_owned())];
        let netns = PathBuf::from("/n");
        let engine = Engine::Programs;
        let mut record = Record::new(id.clone(), netns, conf, engine, arguments, Map::new());
        records.store(&record).unwrap();
        let debt = record.clone();
        let (network, result) = ("n".to_owned(), Value::Null);
        record.attachment = Some(Attachment { ips: Vec::new(), network, builtin: false, result });
        records.store(&record).unwrap();
        assert_eq!(records.load(&id).unwrap(), Some(record));
        fs::write(records.attached_path(&id), "").unwrap();
        assert_eq!(records.load(&id).unwrap(), Some(debt));
        assert_eq!(records.list().unwrap(), std::slice::from_ref(&id));
        fs::write(records.path(&id), "{").unwrap();
        assert!(matches!(records.load(&id), Err(NetworkError::DamagedRecord { .. })));
        assert!(!records.is_going(&id));
        records.mark_going(&id).unwrap();
        assert!(records.is_going(&id));
        assert_eq!(records.firewalled(&id), None);
        for state in [Firewalled::Begun, Firewalled::Done] {
            records.note_firewall(&id, state).unwrap();
            assert_eq!(records.firewalled(&id), Some(state));
        }
        records.remove(&id).unwrap();
        assert!(!records.is_going(&id));
        assert_eq!(records.list().unwrap(), []);
    }
}
