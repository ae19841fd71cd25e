//! Pod and container files, JSON or YAML, as crictl's users have them.
//!
//! Names may be in camelCase or snake_case, or in any other mixture of cases;
//! enumerations names or numbers; 64-bit numbers numbers or strings. What the
//! interface does not know is left out with a warning, because files written for
//! other versions of it should work.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cri_proto::v1::{ContainerConfig, PodSandboxConfig};
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use crate::json::{Named, descriptor, is_key_value};

/// The largest file read: far above any real one.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Where the kernel gives out new unique ids.
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";

/// A message from a file, with what should be said about the file.
#[derive(Debug)]
pub struct Loaded<M> {
    pub message: M,
    pub warnings: Vec<String>,
}

/// Loads a pod's configuration. A pod without a uid gets one.
pub fn pod(path: &Path) -> anyhow::Result<Loaded<PodSandboxConfig>> {
    let mut loaded: Loaded<PodSandboxConfig> = load(path, "a pod's configuration")?;
    let show = path.display();
    let Some(metadata) = &mut loaded.message.metadata else {
        bail!("{show} has no metadata: is it a pod's configuration?");
    };
    for (name, value) in [("name", &metadata.name), ("namespace", &metadata.namespace)] {
        if value.is_empty() {
            bail!("{show} has no {name} in its metadata");
        }
    }
    if metadata.uid.is_empty() {
        let uid = fs::read_to_string(RANDOM_UUID);
        let uid = uid.with_context(|| format!("failed to read {RANDOM_UUID}"))?;
        metadata.uid = uid.trim().to_owned();
    }
    Ok(loaded)
}

/// Loads a container's configuration.
pub fn container(path: &Path) -> anyhow::Result<Loaded<ContainerConfig>> {
    let mut loaded: Loaded<ContainerConfig> = load(path, "a container's configuration")?;
    let show = path.display();
    let config = &mut loaded.message;
    match &config.metadata {
        None => bail!("{show} has no metadata: is it a container's configuration?"),
        Some(metadata) if metadata.name.is_empty() => bail!("{show} has no name in its metadata"),
        Some(_) => {}
    }
    match &mut config.image {
        Some(image) if !image.image.is_empty() => {
            if image.user_specified_image.is_empty() {
                image.user_specified_image.clone_from(&image.image);
            }
        }
        _ => bail!("{show} names no image, add `image: {{image: NAME}}`"),
    }
    Ok(loaded)
}

fn load<M: Named>(path: &Path, what: &str) -> anyhow::Result<Loaded<M>> {
    let show = path.display();
    let meta = fs::metadata(path).with_context(|| format!("failed to read {show}"))?;
    if meta.len() > MAX_FILE_BYTES {
        bail!("{show} is larger than {MAX_FILE_BYTES} bytes: is it {what}?");
    }
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {show}"))?;
    let mut loaded = parse(&text).with_context(|| format!("{show} is not {what}"))?;
    for warning in &mut loaded.warnings {
        *warning = format!("{show}: {warning}");
    }
    Ok(loaded)
}

/// Parses a message from JSON or YAML.
fn parse<M: Named>(text: &str) -> anyhow::Result<Loaded<M>> {
    let mut value: Value = if text.trim_start().starts_with('{') && !looks_like_flow_yaml(text) {
        serde_json::from_str(text)?
    } else {
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!(first_line(&error)))?
    };
    if !value.is_object() {
        bail!("it has no fields");
    }
    let descriptor = descriptor(M::NAME)?;
    let mut warnings = Vec::new();
    normalise(&mut value, &descriptor, "", &mut warnings);
    let options = DeserializeOptions::new();
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, value, &options)?;
    Ok(Loaded { message: dynamic.transcode_to()?, warnings })
}

/// Whether a text in braces is no JSON but is YAML, whose braces are laxer.
fn looks_like_flow_yaml(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_err()
        && serde_saphyr::from_str::<Value>(text).is_ok()
}

/// The YAML parser draws the place over several lines; ours are one line.
fn first_line(error: &impl ToString) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Brings a value into the form that the interface's JSON has.
fn normalise(value: &mut Value, message: &MessageDescriptor, path: &str, warn: &mut Vec<String>) {
    let Value::Object(fields) = value else { return };
    let mut known = Map::new();
    for (name, mut item) in std::mem::take(fields) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(field) = find(message, &name) else {
            warn.push(format!("`{path}` is unknown and ignored"));
            continue;
        };
        if is_key_value(message) && field.name() == "value" {
            item = Value::String(BASE64_STANDARD.encode(scalar_text(&item).unwrap_or_default()));
        } else {
            normalise_field(&mut item, &field, &path, warn);
        }
        known.insert(field.json_name().to_owned(), item);
    }
    *fields = known;
}

fn normalise_field(item: &mut Value, field: &FieldDescriptor, path: &str, warn: &mut Vec<String>) {
    if field.is_map() {
        let kind = field.kind();
        let Some(entry) = kind.as_message() else { return };
        let (Value::Object(entries), kind) = (item, entry.map_entry_value_field().kind()) else {
            return;
        };
        for (key, item) in entries {
            normalise_item(item, &kind, &format!("{path}.{key}"), warn);
        }
    } else if let (true, Value::Array(items)) = (field.is_list(), &mut *item) {
        for (i, item) in items.iter_mut().enumerate() {
            normalise_item(item, &field.kind(), &format!("{path}[{i}]"), warn);
        }
    } else {
        normalise_item(item, &field.kind(), path, warn);
    }
}

fn normalise_item(item: &mut Value, kind: &Kind, path: &str, warn: &mut Vec<String>) {
    match kind {
        Kind::Message(message) => normalise(item, message, path, warn),
        // YAML takes `1.0` and `true` for numbers and booleans where text is meant.
        Kind::String if item.is_number() || item.is_boolean() => {
            *item = Value::String(scalar_text(item).unwrap_or_default());
        }
        _ => {}
    }
}

fn scalar_text(item: &Value) -> Option<String> {
    match item {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(item.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The field of that name, in whichever case it is written.
fn find(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name)).or_else(|| {
        message.fields().find(|field| {
            field.name().eq_ignore_ascii_case(name) || field.json_name().eq_ignore_ascii_case(name)
        })
    })
}

#[cfg(test)]
mod tests;
