//! Network configurations: lists (`.conflist`) and single plugins (`.conf`, `.json`).

use std::collections::BTreeMap;

use serde::Deserialize;
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

/// What a configuration file holds: told by its name, as by libcni's users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A list of plugins (`.conflist`).
    List,
    /// One plugin (`.conf`, `.json`).
    Plugin,
}

/// What libcni reads of a plugin's configuration, and refuses where it is of another kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only what kinds they are counts")]
struct PluginConf {
    cni_version: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    capabilities: Option<BTreeMap<String, Option<bool>>>,
    ipam: Option<IpamConf>,
    dns: Option<DnsConf>,
}

/// See [`PluginConf`].
#[derive(Deserialize)]
#[expect(dead_code, reason = "only what kinds they are counts")]
struct IpamConf {
    r#type: Option<String>,
}

/// See [`PluginConf`].
#[derive(Deserialize)]
#[expect(dead_code, reason = "only what kinds they are counts")]
struct DnsConf {
    nameservers: Option<Vec<Option<String>>>,
    domain: Option<String>,
    search: Option<Vec<Option<String>>>,
    options: Option<Vec<Option<String>>>,
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
    /// Reads the text of a configuration file, and refuses what libcni refuses. Where a list does
    /// not say that its plugins are all there (`loadOnlyInlinedPlugins`), `more` finds those in
    /// files of their own, by the network's name; they follow its own, in their order
    /// (specification 1.1, section 1).
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line.
    pub(crate) fn parse(
        bytes: &[u8],
        form: Form,
        more: impl FnOnce(&str) -> Result<Vec<Value>, String>,
    ) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut raw = match form {
            Form::Plugin => list_of_one(value)?,
            Form::List => value,
        };
        let object = raw.as_object().ok_or("not a JSON object")?;
        check_versions(object)?;
        for key in ["disableCheck", "disableGC"] {
            read_bool(object, key)?;
        }
        let only = form == Form::Plugin || read_bool(object, ONLY_INLINED)?;
        let own = match object.get("plugins") {
            None if only => return Err(format!("\"{ONLY_INLINED}\" without \"plugins\"")),
            None => Vec::new(),
            Some(Value::Array(plugins)) if plugins.is_empty() => {
                return Err("no plugins in \"plugins\"".to_owned());
            }
            Some(Value::Array(plugins)) => plugins.clone(),
            Some(_) => return Err("\"plugins\" is not a list".to_owned()),
        };
        let others = if only { Vec::new() } else { more(&read_name(&raw)?)? };
        for plugin in own.iter().chain(&others) {
            PluginConf::deserialize(plugin).map_err(|error| format!("a plugin: {error}"))?;
        }
        if !others.is_empty() {
            // What is kept of it is whole.
            raw[ONLY_INLINED] = Value::Bool(true);
        }
        raw["plugins"] = own.into_iter().chain(others).collect();
        Self::from_value(raw)
    }

    /// Reads a configuration, be it a list or a single plugin.
    pub(crate) fn from_value(value: Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("not a JSON object")?;
        let raw = match object.get("plugins") {
            Some(_) => value,
            None if object.contains_key("type") => list_of_one(value)?,
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

/// A plugin by itself becomes a list, of which it is all.
fn list_of_one(plugin: Value) -> Result<Value, String> {
    let object = plugin.as_object().ok_or("not a JSON object")?;
    if !object.contains_key("type") {
        return Err("a plugin without \"type\": a list's file ends in .conflist".to_owned());
    }
    let part = |key| object.get(key).cloned().unwrap_or_default();
    Ok(json!({ "cniVersion": part("cniVersion"), "name": part("name"), "plugins": [plugin] }))
}

/// Refuses what are no texts, and versions that are no numbers.
fn check_versions(list: &Map<String, Value>) -> Result<(), String> {
    match list.get("cniVersion") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(_) => return Err("cniVersion is not a text".to_owned()),
    }
    let Some(several) = list.get("cniVersions") else { return Ok(()) };
    let several = several.as_array().ok_or("cniVersions is not a list")?;
    let number = |part: &str| part.parse::<u32>().is_ok();
    let version = |text: &str| text.split('.').count() <= 3 && text.split('.').all(number);
    match several.iter().find(|one| !one.as_str().is_some_and(version)) {
        Some(other) => Err(format!("cniVersions has {other}, which is no version")),
        None => Ok(()),
    }
}

/// Reads what is true or false, be it as text.
fn read_bool(list: &Map<String, Value>, key: &str) -> Result<bool, String> {
    let value = list.get(key).unwrap_or(&Value::Bool(false));
    boolean(value).ok_or_else(|| format!("\"{key}\" is {value}: neither true nor false"))
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

fn is_true(value: &Value) -> bool {
    boolean(value) == Some(true)
}

/// Booleans may be written as text in a list, in whatever case (specification 1.0, section 1).
fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NetworkList, String> {
        NetworkList::parse(text.as_bytes(), Form::List, |_| Ok(Vec::new()))
    }

    fn parse_plugin(text: &str) -> Result<NetworkList, String> {
        NetworkList::parse(text.as_bytes(), Form::Plugin, |_| panic!("it is asked"))
    }

    #[test]
    fn plugins_of_other_files_follow() {
        let more = |name: &str| -> Result<Vec<Value>, String> {
            assert_eq!(name, "n");
            Ok(vec![json!({ "type": "b" }), json!({ "type": "c" })])
        };
        let kinds = |rest: &str, more: &dyn Fn(&str) -> Result<Vec<Value>, String>| {
            let text = format!(r#"{{"cniVersion":"1.1.0","name":"n"{rest}}}"#);
            let list = NetworkList::parse(text.as_bytes(), Form::List, more)?;
            assert_eq!(NetworkList::from_value(list.raw.clone())?, list);
            // What is kept has them, and gets no others.
            let kept = serde_json::to_vec(&list.raw).unwrap();
            let again = NetworkList::parse(&kept, Form::List, |_| Err("asked".to_owned()));
            assert_eq!(again.as_ref().ok(), is_true(&list.raw[ONLY_INLINED]).then_some(&list));
            Ok::<_, String>(list.plugins.into_iter().map(|p| p.kind).collect::<Vec<_>>())
        };
        let a = r#","plugins":[{"type":"a"}]"#;
        assert_eq!(kinds(a, &more), Ok(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(kinds("", &more), Ok(vec!["b".into(), "c".into()]));
        assert_eq!(kinds("", &|_| Ok(Vec::new())), Err("no plugins".into()));
        // `plugins` must be good where it is, whatever the files say.
        for (plugins, problem) in
            [("[]", "no plugins in"), ("null", "is not a list"), ("7", "is not a list")]
        {
            let error = kinds(&format!(r#","plugins":{plugins}"#), &more).unwrap_err();
            assert!(error.contains(problem), "{plugins}: {error}");
        }
        assert_eq!(kinds(a, &|_| Err("broken".into())), Err("broken".into()));
        let untyped = kinds(a, &|_| Ok(vec![json!({ "type": "b", "ipam": 7 })])).unwrap_err();
        assert!(untyped.contains("a plugin: invalid type"), "{untyped}");
        let refused = |_: &str| -> Result<Vec<Value>, String> { panic!("it is asked") };
        for only in ["true", "\"true\"", "\"TRUE\""] {
            let only = format!(r#","loadOnlyInlinedPlugins":{only}"#);
            assert_eq!(kinds(&format!("{only}{a}"), &refused), Ok(vec!["a".into()]));
            let error = kinds(&only, &refused).unwrap_err();
            assert!(error.contains("without \"plugins\""), "{error}");
        }
        for all in ["false", "\"false\"", "\"False\""] {
            let all = format!(r#","loadOnlyInlinedPlugins":{all}{a}"#);
            assert_eq!(kinds(&all, &more).map(|kinds| kinds.len()), Ok(3));
        }
        for neither in ["1", "null", "\"yes\"", "\"\"", "[]"] {
            for key in ["loadOnlyInlinedPlugins", "disableCheck", "disableGC"] {
                let error = kinds(&format!(r#","{key}":{neither}{a}"#), &more).unwrap_err();
                assert!(error.contains("neither true nor false"), "{key}: {error}");
            }
        }
    }

    #[test]
    fn the_form_is_told_by_the_files_name() {
        let single = r#"{"cniVersion":"1.1.0","name":"n","type":"ptp"}"#;
        assert_eq!(parse_plugin(single).unwrap().plugins.len(), 1);
        assert_eq!(parse(single).unwrap_err(), "no plugins");
        let list = r#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"ptp"}]}"#;
        let error = parse_plugin(list).unwrap_err();
        assert!(error.contains("without \"type\""), "{error}");
        // A plugin that has such a key of its own.
        let both = r#"{"cniVersion":"1.1.0","name":"n","type":"meta","plugins":[7]}"#;
        assert_eq!(parse_plugin(both).unwrap().plugins[0].kind, "meta");
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
        let list = parse_plugin(r#"{"cniVersion":"0.3.1","name":"n","type":"ptp"}"#).unwrap();
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
            (r#"{"cniVersion":"1.0.0","name":"n"}"#, "no plugins"),
            (r#"{"cniVersion":1,"name":"n","plugins":[{"type":"a"}]}"#, "not a text"),
            (r#"{"cniVersions":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#, "not a list"),
            (r#"{"cniVersions":["1.0.0",1],"name":"n","plugins":[{"type":"a"}]}"#, "no version"),
            (r#"{"cniVersions":["1.0.0","x"],"name":"n","plugins":[{"type":"a"}]}"#, "no version"),
            (
                r#"{"cniVersion":"1.0.0","name":"n","plugins":[
                    {"type":"a","capabilities":{"dns":"true"}}]}"#,
                "invalid type",
            ),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "no plugins"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#, "not a list"),
            (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#, "without \"type\""),
            (r#"{"cniVersion":"1.0.0","name":"../n","plugins":[{"type":"a"}]}"#, "network name"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#, "network name"),
            (r#"{"cniVersion":"9.0.0","name":"n","plugins":[{"type":"a"}]}"#, "is 9.0.0"),
            (r#"{"name":"n","plugins":[{"type":"a"}]}"#, "cniVersion is none"),
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
            let _ = (parse(&text), parse_plugin(&text));
        }
    }
}
