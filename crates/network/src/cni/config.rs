//! Network configurations: lists (`.conflist`) and single plugins (`.conf`, `.json`).

use serde_json::{Map, Value, json};

/// The longest name: it becomes a part of a file name, beside an id of 64 digits and an
/// interface's name.
const MAX_NAME_BYTES: usize = 160;
/// The longest type: it becomes a file name.
const MAX_TYPE_BYTES: usize = 128;
/// The key of a list by which it has no plugins in other files.
const ONLY_INLINED: &str = "loadOnlyInlinedPlugins";
/// The most plugins of one list: real ones have three to five.
const MAX_PLUGINS: usize = 32;

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All that are spoken, newest first.
    const ALL: [Self; 5] = [Self::V1_1_0, Self::V1_0_0, Self::V0_4_0, Self::V0_3_1, Self::V0_3_0];

    /// Reads a version that is spoken.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// A network: a chain of plugins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<Plugin>,
    /// The list as it was written (a single plugin as a list of one).
    pub(crate) raw: Value,
}

/// One plugin of a chain.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plugin {
    /// The program's file name.
    pub(crate) kind: String,
    /// The runtime arguments that it asks for.
    pub(crate) capabilities: Vec<String>,
    /// Its configuration as it was written.
    pub(crate) conf: Map<String, Value>,
}

impl NetworkList {
    /// Reads the text of a configuration file. Where a list does not say that its plugins are
    /// all there (`loadOnlyInlinedPlugins`), `more` finds those in files of their own, by the
    /// network's name; they follow its own, in their order (specification 1.1, section 1).
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line.
    pub(crate) fn parse(
        bytes: &[u8],
        more: impl FnOnce(&str) -> Result<Vec<Value>, String>,
    ) -> Result<Self, String> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if is_list(&value) && !is_true(&value[ONLY_INLINED]) {
            let plugins = more(&read_name(&value)?)?;
            if !plugins.is_empty() {
                let own = value["plugins"].take();
                let own = if own.is_null() { Vec::new() } else { array(own)? };
                value["plugins"] = own.into_iter().chain(plugins).collect();
                // What is kept of it is whole.
                value[ONLY_INLINED] = Value::Bool(true);
            }
        }
        Self::from_value(value)
    }

    /// Reads a configuration, be it a list or a single plugin.
    pub(crate) fn from_value(value: Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("not a JSON object")?;
        let raw = match object.get("plugins") {
            Some(_) => value,
            None if object.contains_key("type") => json!({
                "cniVersion": object.get("cniVersion").cloned().unwrap_or_default(),
                "name": object.get("name").cloned().unwrap_or_default(),
                "plugins": [value],
            }),
            None => return Err("neither \"plugins\" nor \"type\"".to_owned()),
        };
        let plugins = raw["plugins"].as_array().ok_or("\"plugins\" is not a list")?;
        if plugins.is_empty() {
            return Err("no plugins".to_owned());
        }
        if plugins.len() > MAX_PLUGINS {
            return Err(format!("more than {MAX_PLUGINS} plugins"));
        }
        let plugins = plugins.iter().map(Plugin::from_value).collect::<Result<_, _>>()?;
        Ok(Self {
            name: read_name(&raw)?,
            version: read_version(&raw)?,
            disable_check: is_true(&raw["disableCheck"]),
            disable_gc: is_true(&raw["disableGC"]),
            plugins,
            raw,
        })
    }
}

impl Plugin {
    /// Reports whether it asks for a runtime argument.
    pub(crate) fn takes(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let conf = value.as_object().ok_or("a plugin is not a JSON object")?;
        let kind = conf.get("type").and_then(Value::as_str).ok_or("a plugin without \"type\"")?;
        // Never a path (CVE-2021-20206).
        let plain = !kind.is_empty() && kind.len() <= MAX_TYPE_BYTES && kind != "." && kind != "..";
        if !plain || kind.contains(['/', '\0']) {
            return Err(format!("plugin type {kind:?} is not a file name"));
        }
        let capabilities = conf.get("capabilities").and_then(Value::as_object);
        let asked = capabilities.into_iter().flatten().filter(|(_, wanted)| is_true(wanted));
        Ok(Self {
            kind: kind.to_owned(),
            capabilities: asked.map(|(name, _)| name.clone()).collect(),
            conf: conf.clone(),
        })
    }
}

/// Whether it is a list of plugins, be they in other files, and no plugin by itself.
fn is_list(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|object| object.contains_key("plugins") || !object.contains_key("type"))
}

fn array(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err("\"plugins\" is not a list".to_owned()),
    }
}

fn read_name(raw: &Value) -> Result<String, String> {
    let name = raw["name"].as_str().unwrap_or_default();
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if starts && name.bytes().all(good) && name.len() <= MAX_NAME_BYTES {
        Ok(name.to_owned())
    } else {
        Err(format!("network name {name:?} is not of letters, digits, '_', '.' and '-'"))
    }
}

/// Takes the newest spoken one of `cniVersions` (1.1), or `cniVersion`.
fn read_version(raw: &Value) -> Result<Version, String> {
    let several = raw["cniVersions"].as_array().into_iter().flatten();
    let given: Vec<&str> = several.chain([&raw["cniVersion"]]).filter_map(Value::as_str).collect();
    Version::ALL.into_iter().find(|version| given.contains(&version.as_str())).ok_or_else(|| {
        let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
        format!("cniVersion is {given}: 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0 are spoken")
    })
}

/// Booleans may be written as text in a list (specification 1.0, section 1).
fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkList, String> {
        NetworkList::parse(text.as_bytes(), |_| Ok(Vec::new()))
    }

    #[test]
    fn plugins_of_other_files_follow() {
        let more = |name: &str| -> Result<Vec<Value>, String> {
            assert_eq!(name, "n");
            Ok(vec![json!({ "type": "b" }), json!({ "type": "c" })])
        };
        let kinds = |rest: &str, more: &dyn Fn(&str) -> Result<Vec<Value>, String>| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{rest}}}"#);
            let list = NetworkList::parse(text.as_bytes(), more)?;
            assert_eq!(NetworkList::from_value(list.raw.clone())?, list);
            // What is kept has them, and gets no others.
            let kept = serde_json::to_vec(&list.raw).unwrap();
            let again = NetworkList::parse(&kept, |_| Err("asked".to_owned()));
            assert_eq!(again.as_ref().ok(), (list.plugins.len() > 1).then_some(&list));
            Ok::<_, String>(list.plugins.into_iter().map(|p| p.kind).collect::<Vec<_>>())
        };
        let a = r#","plugins":[{"type":"a"}]"#;
        assert_eq!(kinds(a, &more), Ok(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(kinds("", &more), Ok(vec!["b".into(), "c".into()]));
        assert_eq!(kinds(r#","plugins":[]"#, &more), Ok(vec!["b".into(), "c".into()]));
        assert_eq!(kinds(r#","plugins":null"#, &more), Ok(vec!["b".into(), "c".into()]));
        assert_eq!(kinds(r#","plugins":7"#, &more), Err("\"plugins\" is not a list".into()));
        assert_eq!(kinds(a, &|_| Err("broken".into())), Err("broken".into()));
        let refused = |_: &str| -> Result<Vec<Value>, String> { panic!("it is asked") };
        for only in ["true", "\"true\""] {
            let text = format!(
                r#"{{"cniVersion":"1.1.0","name":"n","loadOnlyInlinedPlugins":{only}{a}}}"#
            );
            assert_eq!(NetworkList::parse(text.as_bytes(), refused).unwrap().plugins.len(), 1);
        }
        // A plugin by itself is no list.
        let single = br#"{"cniVersion":"1.1.0","name":"n","type":"ptp"}"#;
        assert_eq!(NetworkList::parse(single, refused).unwrap().plugins.len(), 1);
    }

    #[test]
    fn a_list_is_read() {
        let list = parse(
            r#"{"cniVersion":"0.4.0","name":"net.1","disableCheck":"true","plugins":[
                {"type":"bridge","bridge":"b0"},
                {"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .unwrap();
        assert_eq!((list.name.as_str(), list.version), ("net.1", Version::V0_4_0));
        assert!(list.disable_check);
        assert_eq!(list.plugins[1].capabilities, ["portMappings"]);
        assert_eq!(list.plugins[0].conf["bridge"], "b0");
        assert_eq!(NetworkList::from_value(list.raw.clone()).unwrap(), list);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let list = parse(r#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#).unwrap();
        assert_eq!(list.plugins.len(), 1);
        assert_eq!(list.raw["plugins"][0]["type"], "ptp");
    }

    #[test]
    fn the_newest_spoken_version_is_taken() {
        let list = parse(
            r#"{"cniVersion":"0.3.1","cniVersions":["1.0.0","1.1.0","2.0.0"],"name":"n",
                "plugins":[{"type":"ptp"}]}"#,
        );
        assert_eq!(list.unwrap().version, Version::V1_1_0);
    }

    #[test]
    fn bad_configurations_are_named() {
        let kind = |kind: &str| {
            format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"{kind}"}}]}}"#)
        };
        for (text, problem) in [
            ("", "EOF"),
            (r#"{"cniVersion":"1.0.0","name":"n","plug"#, "EOF"),
            ("[]", "not a JSON object"),
            ("{}", "network name"),
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, "neither"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "no plugins"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, "not a list"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, "without \"type\""),
            (r#"{"cniVersion":"1.0.0","name":"../n","type":"ptp"}"#, "network name"),
            (r#"{"cniVersion":"1.0.0","type":"ptp"}"#, "network name"),
            (r#"{"cniVersion":"9.0.0","name":"n","type":"ptp"}"#, "cniVersion is 9.0.0"),
            (r#"{"name":"n","type":"ptp"}"#, "cniVersion is none"),
            (&kind("../../bin/sh"), "not a file name"),
            (&kind("/bin/sh"), "not a file name"),
            (&kind(".."), "not a file name"),
            (&kind(""), "not a file name"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn foreign_text_does_no_harm(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }
    }
}
