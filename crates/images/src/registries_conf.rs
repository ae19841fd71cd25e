//! `registries.conf` as CRI-O, podman and skopeo have it (version 2, containers-
//! registries.conf(5)): mirrors, blocked and insecure registries, short names.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    PullError,
    hosts::{Host, api_root, default_server},
    hosts_toml::read,
    reference::{self, Reference},
    tls::Trust,
};

/// The most files of drop-ins that are read.
const MAX_DROP_INS: usize = 256;

/// What all files together say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    path: PathBuf,
    rules: Vec<Rule>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    enforcing: bool,
}

/// What holds for the images whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    path: PathBuf,
    /// `example.com/team` or `*.example.com`.
    pub prefix: String,
    /// Whether nothing may be pulled.
    pub blocked: bool,
    location: String,
    insecure: bool,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    by: By,
}

/// For which references a mirror is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum By {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawFile {
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    registry: Vec<RawRegistry>,
    aliases: BTreeMap<String, String>,
    /// Version 1, which nobody writes any more.
    registries: Option<toml::Table>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawRegistry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<RawMirror>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawMirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<By>,
}

impl Registries {
    /// Reads the file and its drop-ins (`<file>.d/*.conf`); that there are none is fine.
    ///
    /// # Errors
    /// Fails where one cannot be used, and names it.
    pub(crate) fn load(path: &Path) -> Result<Self, PullError> {
        let mut all = Self { path: path.to_owned(), enforcing: true, ..Self::default() };
        for path in std::iter::once(path.to_owned()).chain(drop_ins(path)?) {
            let failed =
                |e: io::Error| PullError::HostsFile { path: path.clone(), reason: e.to_string() };
            match read(&path) {
                Ok(text) => all.add(&path, &text)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(all)
    }

    /// Reads one file's text.
    #[cfg(test)]
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, PullError> {
        let mut all = Self { enforcing: true, ..Self::default() };
        all.add(path, text)?;
        Ok(all)
    }

    /// A later file's registry replaces the one of the same prefix.
    fn add(&mut self, path: &Path, text: &str) -> Result<(), PullError> {
        let bad = |reason: String| PullError::HostsFile { path: path.to_owned(), reason };
        let raw: RawFile = toml::from_str(text).map_err(|e| bad(e.message().to_owned()))?;
        if raw.registries.is_some() {
            return Err(bad("it has the old form of version 1".to_owned()));
        }
        for registry in raw.registry {
            let rule = Rule::new(path, registry)?;
            self.rules.retain(|other| other.prefix != rule.prefix);
            self.rules.push(rule);
        }
        if let Some(search) = raw.unqualified_search_registries {
            self.search = search;
        }
        match raw.short_name_mode.as_deref() {
            None | Some("") => {}
            Some("enforcing") => self.enforcing = true,
            Some("permissive" | "disabled") => self.enforcing = false,
            Some(odd) => return Err(bad(format!("\"{odd}\" is no short-name-mode"))),
        }
        self.aliases.extend(raw.aliases);
        Ok(())
    }

    /// Returns the rule with the longest prefix that fits.
    pub(crate) fn rule_for(&self, reference: &Reference) -> Option<&Rule> {
        let fitting = self.rules.iter().filter(|rule| rule.fits(reference));
        fitting.max_by_key(|rule| rule.prefix.len())
    }

    /// Returns what a name may stand for, in the order in which it is tried. A name
    /// without a registry is looked up; where nothing is configured it is Docker Hub's,
    /// as the kubelet takes it too.
    ///
    /// # Errors
    /// Fails where the name is none, or could be several.
    pub(crate) fn candidates(&self, text: &str) -> Result<Vec<Reference>, PullError> {
        let usual: Reference = text.parse()?;
        if !reference::is_short(text) {
            return Ok(vec![usual]);
        }
        let (name, rest) = text.split_at(text.find([':', '@']).unwrap_or(text.len()));
        if let Some(target) = self.aliases.get(name).filter(|target| !target.is_empty()) {
            return Ok(vec![format!("{target}{rest}").parse()?]);
        }
        match self.search.as_slice() {
            [] => Ok(vec![usual]),
            [_, _, ..] if self.enforcing => Err(PullError::HostsFile {
                path: self.path.clone(),
                reason: format!(
                    "the short name \"{name}\" could be of {}: write the registry, or an alias",
                    self.search.join(", ")
                ),
            }),
            several => {
                several.iter().map(|registry| Ok(format!("{registry}/{text}").parse()?)).collect()
            }
        }
    }
}

fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, PullError> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(PullError::HostsFile { path: dir.into(), reason: e.to_string() }),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        paths.filter(|p| p.extension().is_some_and(|e| e == "conf")).take(MAX_DROP_INS).collect();
    files.sort();
    Ok(files)
}

impl Rule {
    fn new(path: &Path, raw: RawRegistry) -> Result<Self, PullError> {
        let bad = |reason: &str| {
            Err(PullError::HostsFile { path: path.to_owned(), reason: reason.to_owned() })
        };
        let given = |text: Option<String>| text.filter(|t| !t.is_empty());
        let (prefix, location) = match (given(raw.prefix), given(raw.location)) {
            (Some(prefix), location) => (prefix, location.unwrap_or_default()),
            (None, Some(location)) => (location.clone(), location),
            (None, None) => return bad("a registry has neither a prefix nor a location"),
        };
        if raw.mirror.iter().any(|mirror| mirror.location.is_empty()) {
            return bad("a mirror has no location");
        }
        let by = |own: Option<By>| {
            own.unwrap_or(if raw.mirror_by_digest_only { By::DigestOnly } else { By::All })
        };
        let mirrors = raw.mirror.into_iter().map(|mirror| Mirror {
            by: by(mirror.pull_from_mirror),
            location: mirror.location,
            insecure: mirror.insecure,
        });
        Ok(Self {
            path: path.to_owned(),
            mirrors: mirrors.collect(),
            prefix,
            blocked: raw.blocked,
            location,
            insecure: raw.insecure,
        })
    }

    fn fits(&self, reference: &Reference) -> bool {
        if let Some(parent) = self.prefix.strip_prefix('*') {
            return reference.domain().ends_with(parent);
        }
        let name = reference.to_string();
        let rest = name.strip_prefix(&self.prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
    }

    /// Returns the mirrors, and the registry itself at the end.
    ///
    /// # Errors
    /// Fails where a location is none.
    pub(crate) fn hosts(
        &self,
        reference: &Reference,
        by_digest: bool,
    ) -> Result<Vec<Host>, PullError> {
        let mut hosts = Vec::new();
        for mirror in &self.mirrors {
            let asked = match mirror.by {
                By::All => true,
                By::DigestOnly => by_digest,
                By::TagOnly => !by_digest,
            };
            if asked {
                self.push(&mut hosts, reference, &mirror.location, mirror.insecure, true)?;
            }
        }
        let own = if self.location.is_empty() { &self.prefix } else { &self.location };
        let wildcard = own.starts_with('*');
        let own = if wildcard { reference.domain() } else { own };
        self.push(&mut hosts, reference, own, self.insecure, false)?;
        Ok(hosts)
    }

    /// A registry that is not secure is asked by TLS with any certificate, and then in
    /// the clear.
    fn push(
        &self,
        hosts: &mut Vec<Host>,
        reference: &Reference,
        location: &str,
        insecure: bool,
        mirror: bool,
    ) -> Result<(), PullError> {
        let (server, path) = self.moved(reference, location);
        let stands_in = mirror || server != reference.domain();
        let mut add = |url: &str, trust: Trust| {
            let base = api_root(&self.path, url, false)?;
            hosts.push(Host { trust, stands_in, path: path.clone(), ..Host::plain(base, mirror) });
            Ok(())
        };
        if !insecure || default_server(&server).starts_with("http://") {
            return add(&default_server(&server), Trust::default());
        }
        let secure = default_server(&server);
        add(&secure, Trust { skip_verify: true, ..Trust::default() })?;
        add(&secure.replacen("https://", "http://", 1), Trust::default())
    }

    /// The server and the path there: the prefix of the name is replaced.
    fn moved(&self, reference: &Reference, location: &str) -> (String, Option<String>) {
        let name = reference.repository();
        let moved = match name.strip_prefix(&self.prefix) {
            Some(rest) => format!("{location}{rest}"),
            None if location.contains('/') => location.to_owned(),
            None => format!("{location}/{}", reference.path()),
        };
        let (server, path) = moved.split_once('/').unwrap_or((&moved, ""));
        let other = (path != reference.path() && !path.is_empty()).then(|| path.to_owned());
        (server.to_owned(), other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(conf: &str, name: &str) -> Vec<String> {
        let registries = Registries::parse(Path::new("x.conf"), conf).unwrap();
        let reference: Reference = name.parse().unwrap();
        let by_digest = name.contains('@');
        let hosts = registries.rule_for(&reference).unwrap().hosts(&reference, by_digest).unwrap();
        hosts
            .iter()
            .map(|h| {
                let path = h.path.as_deref().unwrap_or(reference.path());
                format!("{} {path} {}", h.base, h.trust.skip_verify)
            })
            .collect()
    }

    const CONF: &str = r#"
        [[registry]]
        prefix = "example.com/foo"
        location = "internal.example/bar"
        [[registry.mirror]]
        location = "m1.example/for-foo"
        insecure = true
        [[registry.mirror]]
        location = "m2.example"
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "example.com"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "127.0.0.1:5000"
        [[registry]]
        prefix = "*.wild.example"
        insecure = true
    "#;

    #[test]
    fn prefixes_are_replaced_and_mirrors_come_first() {
        let digest = format!("@sha256:{}", "0".repeat(64));
        assert_eq!(
            hosts(CONF, "example.com/foo/image:1"),
            [
                "https://m1.example/v2 for-foo/image true",
                "http://m1.example/v2 for-foo/image false",
                "https://internal.example/v2 bar/image false",
            ]
        );
        assert_eq!(
            hosts(CONF, &format!("example.com/foo/image{digest}"))[2],
            "https://m2.example/v2 image false"
        );
        assert_eq!(hosts(CONF, "example.com/other:1"), ["https://example.com/v2 other false"]);
        assert_eq!(
            hosts(CONF, &format!("example.com/other{digest}")),
            ["http://127.0.0.1:5000/v2 other false", "https://example.com/v2 other false"]
        );
        assert_eq!(
            hosts(CONF, "a.wild.example/x:1"),
            ["https://a.wild.example/v2 x true", "http://a.wild.example/v2 x false"]
        );
    }

    #[test]
    fn a_prefix_ends_where_a_name_does() {
        let registries = Registries::parse(Path::new("x"), CONF).unwrap();
        let prefix = |name: &str| {
            registries.rule_for(&name.parse().unwrap()).map(|rule| rule.prefix.clone())
        };
        assert_eq!(prefix("example.com/foobar").as_deref(), Some("example.com"));
        assert_eq!(prefix("example.com/foo:1").as_deref(), Some("example.com/foo"));
        assert_eq!(prefix("example.com.evil/foo"), None);
        assert_eq!(prefix("wild.example/foo"), None);
    }

    #[test]
    fn short_names_are_looked_up() {
        let names = |conf: &str, text: &str| {
            let registries = Registries::parse(Path::new("x"), conf).unwrap();
            let found = registries.candidates(text)?;
            Ok::<_, PullError>(found.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let alias = "[aliases]\n\"fedora\" = \"registry.example/fedora\"";
        assert_eq!(names(alias, "fedora:40").unwrap(), ["registry.example/fedora:40"]);
        assert_eq!(names(alias, "busybox").unwrap(), ["docker.io/library/busybox:latest"]);
        assert_eq!(names(alias, "x.io/fedora").unwrap(), ["x.io/fedora:latest"]);
        let one = "unqualified-search-registries = [\"a.io\"]";
        assert_eq!(names(one, "team/app:1").unwrap(), ["a.io/team/app:1"]);
        let two = "unqualified-search-registries = [\"a.io\", \"docker.io\"]";
        assert!(names(two, "app").unwrap_err().to_string().contains("a.io, docker.io"));
        let permissive = format!("{two}\nshort-name-mode = \"permissive\"");
        assert_eq!(
            names(&permissive, "app").unwrap(),
            ["a.io/app:latest", "docker.io/library/app:latest"]
        );
    }

    #[test]
    fn later_files_replace_and_bad_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.conf");
        assert_eq!(Registries::load(&path).unwrap().rules, []);
        fs::write(&path, CONF).unwrap();
        fs::create_dir(dir.path().join("registries.conf.d")).unwrap();
        let drop_in = dir.path().join("registries.conf.d/10.conf");
        fs::write(&drop_in, "[[registry]]\nlocation = \"example.com\"\nblocked = true").unwrap();
        let all = Registries::load(&path).unwrap();
        assert!(all.rule_for(&"example.com/x".parse().unwrap()).unwrap().blocked);
        assert!(!all.rule_for(&"example.com/foo".parse().unwrap()).unwrap().blocked);
        for bad in [
            "registry = 1",
            "[[registry]]\nblocked = true",
            "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]\ninsecure = true",
            "short-name-mode = \"odd\"",
            "[registries.search]\nregistries = []",
        ] {
            fs::write(&drop_in, bad).unwrap();
            let error = Registries::load(&path).unwrap_err().to_string();
            assert!(error.contains("10.conf"), "{error}");
        }
    }
}
