//! Reading the bundle, in the child.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};

use crate::container::{check_supported, unsupported};
use crate::outline::Outline;
use crate::step::{Done, During};
use crate::{ChildFailure, Step};

/// The longest spec that is read: a thousand mounts and a long seccomp profile fit many times.
const MAX_SPEC_BYTES: u64 = 8 * 1024 * 1024;

/// A spec with a dozen mounts and the default filter is not longer: it is read at once.
const USUAL_SPEC_BYTES: usize = 32 * 1024;

/// Reads and checks `config.json`.
pub(crate) fn load(bundle: &Path) -> Done<Spec> {
    let spec = load_unchecked(bundle)?;
    check_supported(&spec)?;
    check_process(process_of(&spec)?)?;
    Ok(spec)
}

/// Reads `config.json`, of which only a part is to be used.
pub(crate) fn load_unchecked(bundle: &Path) -> Done<Spec> {
    parse(&bundle.join("config.json"))
}

/// Reads of `config.json` what an exec needs.
pub(crate) fn load_outline(bundle: &Path) -> Done<Outline> {
    parse(&bundle.join("config.json"))
}

/// Reads `config.json` as it is, to change a part of it.
pub(crate) fn load_value(bundle: &Path) -> Done<serde_json::Value> {
    parse(&bundle.join("config.json"))
}

/// Makes a spec of what [`load_value`] has read.
pub(crate) fn parse_value(value: &serde_json::Value) -> Done<Spec> {
    serde::Deserialize::deserialize(value)
        .map_err(|error| malformed(format!("failed to parse the spec: {error}")))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Done<T> {
    let mut text = Vec::with_capacity(USUAL_SPEC_BYTES);
    let read = File::open(path).and_then(|f| f.take(MAX_SPEC_BYTES + 1).read_to_end(&mut text));
    let length = read.during_on(Step::Spec, "failed to read", path)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > MAX_SPEC_BYTES {
        return Err(malformed(format!("{} is too long", path.display())));
    }
    serde_json::from_slice(&text)
        .map_err(|error| malformed(format!("failed to parse {}: {error}", path.display())))
}

/// Reads a process given as JSON.
pub(crate) fn parse_process(text: &[u8]) -> Done<Process> {
    let process = serde_json::from_slice(text)
        .map_err(|error| malformed(format!("failed to parse the process: {error}")))?;
    check_process(&process)?;
    Ok(process)
}

/// The spec's process, which a container must have.
pub(crate) fn process_of(spec: &Spec) -> Done<&Process> {
    spec.process().as_ref().ok_or_else(|| malformed("the spec has no process".to_owned()))
}

fn check_process(process: &Process) -> Done {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(malformed("no command is given".to_owned()));
    }
    if !process.cwd().is_absolute() {
        let message = format!("the working directory {} is not absolute", process.cwd().display());
        return Err(malformed(message));
    }
    if process.scheduler().is_some() {
        return Err(unsupported("process.scheduler"));
    }
    if process.io_priority().is_some() {
        return Err(unsupported("process.ioPriority"));
    }
    if process.exec_cpu_affinity().is_some() {
        return Err(unsupported("process.execCPUAffinity"));
    }
    Ok(())
}

fn malformed(message: String) -> ChildFailure {
    ChildFailure::new(Step::Spec, message)
}
