//! Messages of the interface as JSON, in crictl's form: camelCase names in the
//! order of the fields' numbers, enumerations by name, 64-bit numbers as strings,
//! unset values shown, unset messages left out.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage as _, Value,
};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A JSON value whose objects keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// What has no order of its own.
    Plain(serde_json::Value),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Plain(serde_json::Value::String(text.into()))
    }

    /// Replaces the value of `key` in an object that has it.
    pub fn replace(&mut self, key: &str, value: Json) {
        if let Self::Object(entries) = self
            && let Some(entry) = entries.iter_mut().find(|(name, _)| name == key)
        {
            entry.1 = value;
        }
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(value) => value.serialize(serializer),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// A message type that has JSON.
pub trait Named: prost::Message + Default {
    /// Its full name.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {
        $(impl Named for cri_proto::v1::$message {
            const NAME: &'static str = concat!("runtime.v1.", stringify!($message));
        })*
    };
}
named!(
    ContainerConfig,
    ContainerEventResponse,
    ContainerStatus,
    Image,
    ImageFsInfoResponse,
    ListContainerStatsResponse,
    ListPodSandboxStatsResponse,
    ListContainersResponse,
    ListImagesResponse,
    ListPodSandboxResponse,
    PodSandboxConfig,
    PodSandboxStatus,
    RuntimeConfigResponse,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeStatus,
);

/// The description of a message.
pub fn descriptor(name: &str) -> anyhow::Result<MessageDescriptor> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    let pool = POOL
        .get_or_init(|| DescriptorPool::decode(cri_proto::DESCRIPTORS).map_err(|e| e.to_string()))
        .as_ref()
        .map_err(|error| anyhow::anyhow!("the interface's descriptors are broken: {error}"))?;
    pool.get_message_by_name(name)
        .ok_or_else(|| anyhow::anyhow!("the interface has no message {name}"))
}

/// How a message is written.
#[derive(Clone, Copy, Debug)]
pub enum Style {
    /// The interface's JSON names, unset values shown.
    Whole,
    /// The fields' own names, unset values left out: what crictl does for
    /// handlers and features.
    Compact,
}

/// Turns a message into JSON.
pub fn from_message<M: Named>(message: &M, style: Style) -> anyhow::Result<Json> {
    let dynamic = DynamicMessage::decode(descriptor(M::NAME)?, message.encode_to_vec().as_slice())?;
    Ok(object(&dynamic, style))
}

fn object(message: &DynamicMessage, style: Style) -> Json {
    let entry = |field: FieldDescriptor| {
        let unset = !message.has_field(&field);
        let hidden = match style {
            Style::Whole => unset && field.supports_presence(),
            Style::Compact => unset,
        };
        if hidden {
            return None;
        }
        let name = match style {
            Style::Whole => field.json_name(),
            Style::Compact => field.name(),
        };
        Some((name.to_owned(), value(&message.get_field(&field), &field.kind(), style)))
    };
    let descriptor = message.descriptor();
    let text = is_key_value(&descriptor);
    let mut entries: Vec<_> = descriptor.fields().filter_map(entry).collect();
    if text && let Some(Value::Bytes(bytes)) = message.get_field_by_name("value").as_deref() {
        let plain = Json::text(String::from_utf8_lossy(bytes));
        entries.retain(|(name, _)| name != "value");
        entries.push(("value".to_owned(), plain));
    }
    Json::Object(entries)
}

/// Whether the message is a variable of an environment, whose value is `bytes`
/// on the wire but plain text in crictl's files and output.
pub fn is_key_value(descriptor: &MessageDescriptor) -> bool {
    descriptor.full_name() == "runtime.v1.KeyValue"
}

fn value(value: &Value, kind: &Kind, style: Style) -> Json {
    match value {
        Value::Bool(v) => Json::Plain((*v).into()),
        Value::I32(v) => Json::Plain((*v).into()),
        Value::U32(v) => Json::Plain((*v).into()),
        Value::I64(v) => Json::text(v.to_string()),
        Value::U64(v) => Json::text(v.to_string()),
        Value::F32(v) => Json::Plain((*v).into()),
        Value::F64(v) => Json::Plain((*v).into()),
        Value::String(v) => Json::text(v.as_str()),
        Value::Bytes(v) => Json::text(BASE64_STANDARD.encode(v)),
        Value::EnumNumber(number) => enumeration(*number, kind),
        Value::Message(v) => object(v, style),
        Value::List(items) => {
            Json::Array(items.iter().map(|item| self::value(item, kind, style)).collect())
        }
        Value::Map(entries) => map(entries, kind, style),
    }
}

fn enumeration(number: i32, kind: &Kind) -> Json {
    let named = kind.as_enum().and_then(|e| e.get_value(number));
    named.map_or_else(|| Json::Plain(number.into()), |v| Json::text(v.name()))
}

/// A map, sorted by its keys: it has no order on the wire.
fn map(entries: &HashMap<MapKey, Value>, kind: &Kind, style: Style) -> Json {
    let Some(entry) = kind.as_message() else { return Json::Object(Vec::new()) };
    let kind = entry.map_entry_value_field().kind();
    let mut all: Vec<_> =
        entries.iter().map(|(key, item)| (key_text(key), value(item, &kind, style))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Json::Object(all)
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(v) => v.to_string(),
        MapKey::I32(v) => v.to_string(),
        MapKey::I64(v) => v.to_string(),
        MapKey::U32(v) => v.to_string(),
        MapKey::U64(v) => v.to_string(),
        MapKey::String(v) => v.clone(),
    }
}

/// Adds a verbose answer's extra information: what is JSON as JSON, the rest as
/// text, sorted by name.
pub fn with_info(mut entries: Vec<(String, Json)>, info: &HashMap<String, String>) -> Json {
    let mut names: Vec<_> = info.keys().collect();
    names.sort();
    for name in names {
        let text = &info[name];
        let value = match serde_json::from_str(text) {
            Ok(value) if text.starts_with(['{', '[']) => Json::Plain(value),
            _ => Json::text(text.trim_matches('"')),
        };
        entries.push((name.clone(), value));
    }
    Json::Object(entries)
}
