//! `hosts.toml` as containerd has it, and Docker's directories of certificates.
//!
//! ```toml
//! server = "https://registry.k8s.io"
//! [host."http://127.0.0.1:5000"]
//! capabilities = ["pull", "resolve"]
//! ```

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::header::{HeaderName, HeaderValue};
use toml::de::{DeTable, DeValue};

use crate::{
    PullError,
    hosts::{Host, api_root, default_server},
    tls::{ClientCertificate, Trust},
};

/// The most bytes of a `hosts.toml`.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most headers that are sent with each request.
const MAX_HEADERS: usize = 64;
/// What a host may be asked for. Nothing is pushed, and referrers are asked for with
/// what they refer to.
const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];
const KEYS: [&str; 9] = [
    "server",
    "host",
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
];

/// Returns the hosts that a file or directory of certificates names for a domain;
/// `None` where there is neither.
///
/// # Errors
/// Fails where a file is there and cannot be used.
pub(crate) fn for_domain(
    certs_dirs: &[PathBuf],
    domain: &str,
) -> Result<Option<Vec<Host>>, PullError> {
    // A colon in a directory's name is not everybody's taste: containerd takes both.
    let other = domain.replace(':', "_") + "_";
    for dir in certs_dirs {
        for name in [domain, &other, "_default"] {
            let dir = dir.join(name);
            let path = dir.join("hosts.toml");
            match read(&path) {
                Ok(text) => return parse(&path, &text, domain).map(Some),
                Err(e) if is_absent(&e) => {}
                Err(e) => return Err(PullError::HostsFile { path, reason: e.to_string() }),
            }
            if let Some(trust) = docker_certificates(&dir)? {
                let base = api_root(&path, &default_server(domain), false)?;
                return Ok(Some(vec![Host { trust, ..Host::plain(base, false) }]));
            }
        }
    }
    Ok(None)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(crate) fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// Docker's form: roots in `*.crt`, a certificate of our own in `*.cert`, its key in
/// `*.key`.
fn docker_certificates(dir: &Path) -> Result<Option<Trust>, PullError> {
    let bad = |reason: String| PullError::HostsFile { path: dir.to_owned(), reason };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(bad(e.to_string())),
    };
    let mut trust = Trust::default();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => trust.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.is_file() {
                    return Err(bad(format!("there is no key for {}", path.display())));
                }
                trust.client.get_or_insert(ClientCertificate { certificate: path, key });
            }
            _ => {}
        }
    }
    Ok((trust != Trust::default()).then_some(trust))
}

pub(crate) fn parse(path: &Path, text: &str, domain: &str) -> Result<Vec<Host>, PullError> {
    let bad = |reason: String| PullError::HostsFile { path: path.to_owned(), reason };
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| bad(e.message().to_owned()))?;
    let mut hosts = Vec::new();
    if let Some(section) = table.get("host") {
        let section = section.as_table().ok_or_else(|| bad("host is not a table".to_owned()))?;
        for (url, keys) in in_file_order(section, text) {
            let keys =
                keys.as_table().ok_or_else(|| bad(format!("host.\"{url}\" is not a table")))?;
            hosts.push(host(path, url, true, keys)?);
        }
    }
    let server = match table.get("server") {
        Some(server) => server.as_str().ok_or_else(|| bad("server is not a text".to_owned()))?,
        None => "",
    };
    let server = if server.is_empty() { default_server(domain) } else { server.to_owned() };
    // The keys of the file's top level are the server's own.
    let usual = host(path, &default_server(domain), false, &toml::Table::new())?;
    let mut server = host(path, &server, false, &table)?;
    server.stands_in = server.name() != usual.name();
    hosts.push(server);
    Ok(hosts)
}

/// The parsed table is sorted by name; what counts is the order in which the file
/// has the hosts.
fn in_file_order<'a>(section: &'a toml::Table, text: &str) -> Vec<(&'a String, &'a toml::Value)> {
    let places = places(text);
    let mut hosts: Vec<_> = section.iter().collect();
    hosts.sort_by_key(|(url, _)| places.get(url.as_str()).copied().unwrap_or(usize::MAX));
    hosts
}

/// Where in the text each host's name stands.
fn places(text: &str) -> HashMap<String, usize> {
    let Ok(root) = DeTable::parse(text) else { return HashMap::new() };
    let section = root.get_ref().iter().find(|(key, _)| key.get_ref().as_ref() == "host");
    let Some(DeValue::Table(hosts)) = section.map(|(_, value)| value.get_ref()) else {
        return HashMap::new();
    };
    hosts.keys().map(|key| (key.get_ref().to_string(), key.span().start)).collect()
}

fn host(path: &Path, url: &str, mirror: bool, keys: &toml::Table) -> Result<Host, PullError> {
    for key in keys.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        tracing::warn!(path = %path.display(), key, "a key of hosts.toml is not known");
    }
    let keys = Keys { path, keys };
    let base = api_root(path, url, keys.flag("override_path")?)?;
    let capabilities = keys.texts("capabilities")?;
    if let Some(odd) = capabilities.iter().find(|c| !CAPABILITIES.contains(&c.as_str())) {
        return Err(keys.bad(format!("\"{odd}\" is no capability")));
    }
    // The registry itself is asked for everything, as long as the file does not say less.
    let all = !keys.keys.contains_key("capabilities");
    let has = |what: &str| all || capabilities.iter().any(|c| c == what);
    Ok(Host {
        resolves: has("resolve"),
        pulls: has("pull"),
        trust: Trust {
            ca: keys.texts("ca")?.iter().map(|file| keys.file(file)).collect(),
            client: keys.client()?,
            skip_verify: keys.flag("skip_verify")?,
        },
        dial_timeout: keys.duration("dial_timeout")?,
        headers: keys.headers()?,
        ..Host::plain(base, mirror)
    })
}

/// The keys of one host.
struct Keys<'a> {
    path: &'a Path,
    keys: &'a toml::Table,
}

impl Keys<'_> {
    fn bad(&self, reason: String) -> PullError {
        PullError::HostsFile { path: self.path.to_owned(), reason }
    }

    /// A file's name is relative to the `hosts.toml`.
    fn file(&self, name: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(name)
    }

    fn flag(&self, key: &str) -> Result<bool, PullError> {
        match self.keys.get(key) {
            None => Ok(false),
            Some(value) => {
                value.as_bool().ok_or_else(|| self.bad(format!("{key} is neither true nor false")))
            }
        }
    }

    /// One text, or several.
    fn texts(&self, key: &str) -> Result<Vec<String>, PullError> {
        let bad = || self.bad(format!("{key} is neither a text nor a list of texts"));
        match self.keys.get(key) {
            None => Ok(Vec::new()),
            Some(toml::Value::String(one)) => Ok(vec![one.clone()]),
            Some(toml::Value::Array(many)) => {
                many.iter().map(|v| v.as_str().map(ToOwned::to_owned).ok_or_else(bad)).collect()
            }
            Some(_) => Err(bad()),
        }
    }

    /// A file with both, or a certificate and its key, or a list of one such pair.
    fn client(&self) -> Result<Option<ClientCertificate>, PullError> {
        let bad = || self.bad("client is not a file, nor a pair of files".to_owned());
        let pair = |values: &[toml::Value]| {
            let files: Option<Vec<_>> =
                values.iter().map(|v| v.as_str().map(|name| self.file(name))).collect();
            match files.ok_or_else(bad)?.as_slice() {
                [both] => Ok(ClientCertificate { certificate: both.clone(), key: both.clone() }),
                [certificate, _] if values[1].as_str() == Some("") => {
                    let (certificate, key) = (certificate.clone(), certificate.clone());
                    Ok(ClientCertificate { certificate, key })
                }
                [certificate, key] => {
                    Ok(ClientCertificate { certificate: certificate.clone(), key: key.clone() })
                }
                _ => Err(bad()),
            }
        };
        match self.keys.get("client") {
            None => Ok(None),
            Some(one @ toml::Value::String(_)) => pair(std::slice::from_ref(one)).map(Some),
            Some(toml::Value::Array(many)) => match many.as_slice() {
                [] => Ok(None),
                [toml::Value::Array(one)] => pair(one).map(Some),
                [toml::Value::Array(_), ..] => {
                    Err(self.bad("client has more than one certificate".to_owned()))
                }
                // A list of files that each have both: the first is shown.
                [one @ toml::Value::String(_), ..] => pair(std::slice::from_ref(one)).map(Some),
                _ => Err(bad()),
            },
            Some(_) => Err(bad()),
        }
    }

    fn duration(&self, key: &str) -> Result<Option<Duration>, PullError> {
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| self.bad(format!("{key} is not a text")))?;
        let parsed = go_duration(text).filter(|d| !d.is_zero());
        parsed
            .map(Some)
            .ok_or_else(|| self.bad(format!("{key} \"{text}\" is no time such as \"10s\"")))
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, PullError> {
        let Some(value) = self.keys.get("header") else { return Ok(Vec::new()) };
        let table = value.as_table().ok_or_else(|| self.bad("header is not a table".to_owned()))?;
        let mut headers = Vec::new();
        for (name, value) in table {
            let bad = || self.bad(format!("header \"{name}\" is malformed"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let values = match value {
                toml::Value::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            for value in values {
                let mut value =
                    HeaderValue::from_str(value.as_str().ok_or_else(bad)?).map_err(|_| bad())?;
                value.set_sensitive(true);
                headers.push((header.clone(), value));
            }
        }
        if headers.len() > MAX_HEADERS {
            return Err(self.bad(format!("it has more than {MAX_HEADERS} headers")));
        }
        Ok(headers)
    }
}

/// Reads a time as Go writes it: `10s`, `1m30s`, `500ms`, `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end =
            rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let seconds = match &rest[end..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit_end..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|h| h.base.as_str()).collect()
    }

    #[test]
    fn mirrors_come_first_in_the_files_order() {
        let dir = tempfile::tempdir().unwrap();
        let host_dir = dir.path().join("registry.k8s.io");
        fs::create_dir(&host_dir).unwrap();
        fs::write(
            host_dir.join("hosts.toml"),
            "server = \"https://up.example\"\n[host.\"http://z.example:5000\"]\ncapabilities = [\"pull\"]\n\
             [host.\"https://a.example/sub/v2\"]\noverride_path = true\nca = \"ca.pem\"\nskip_verify = true\n",
        )
        .unwrap();
        let dirs = [PathBuf::from("/nonexistent"), dir.path().to_owned()];
        let hosts = for_domain(&dirs, "registry.k8s.io").unwrap().unwrap();
        assert_eq!(
            bases(&hosts),
            ["http://z.example:5000/v2", "https://a.example/sub/v2", "https://up.example/v2"]
        );
        assert_eq!((hosts[0].resolves, hosts[0].pulls, hosts[2].resolves), (false, true, true));
        assert_eq!(hosts[1].trust.ca, [host_dir.join("ca.pem")]);
        assert_eq!(for_domain(&dirs, "other.io").unwrap(), None);
    }

    #[test]
    fn the_order_does_not_hang_on_the_way_of_writing() {
        for text in [
            "host.\"http://z\".capabilities = [\"pull\"]\nhost.\"http://a\".skip_verify = true",
            "[ host . 'http://z' ]\n[host.\"http://a\"]\n",
            "host = { \"http://z\" = {}, \"http://a\" = {} }",
        ] {
            let hosts = parse(Path::new("x"), text, "x.io").unwrap();
            assert_eq!(bases(&hosts), ["http://z/v2", "http://a/v2", "https://x.io/v2"], "{text}");
            assert_eq!(
                hosts.iter().map(|h| h.stands_in).collect::<Vec<_>>(),
                [true, true, false],
                "{text}"
            );
        }
    }

    #[test]
    fn a_default_file_is_for_all_and_bad_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("_default")).unwrap();
        let file = dir.path().join("_default/hosts.toml");
        fs::write(&file, "[host.\"http://m.example\"]\n").unwrap();
        let dirs = [dir.path().to_owned()];
        let hosts = for_domain(&dirs, "x.io").unwrap().unwrap();
        assert_eq!(bases(&hosts), ["http://m.example/v2", "https://x.io/v2"]);
        for broken in [
            "not toml",
            "server = 1",
            "[host.\"ftp://x\"]",
            "[host.\"http://x\"]\ncapabilities = [\"fly\"]",
            "skip_verify = \"yes\"",
            "dial_timeout = \"soon\"",
            "client = [[\"a\", \"b\"], [\"c\", \"d\"]]",
            "client = 1",
            "[header]\n\"bad name\" = \"x\"",
            "ca = 1",
        ] {
            fs::write(&file, broken).unwrap();
            let error = for_domain(&dirs, "x.io").unwrap_err().to_string();
            assert!(error.contains("_default/hosts.toml"), "{error}");
        }
    }

    #[test]
    fn all_keys_are_taken() {
        let text = "[host.\"https://m\"]\nclient = [[\"c.pem\", \"/k.pem\"]]\n\
                    dial_timeout = \"1m1.5s\"\n[host.\"https://m\".header]\nx-a = [\"1\", \"2\"]\nx-b = \"3\"\n";
        let hosts = parse(Path::new("/d/hosts.toml"), text, "x.io").unwrap();
        let client = hosts[0].trust.client.clone().unwrap();
        assert_eq!((client.certificate, client.key), ("/d/c.pem".into(), "/k.pem".into()));
        assert_eq!(hosts[0].dial_timeout, Some(Duration::from_millis(61_500)));
        assert_eq!(hosts[0].headers.len(), 3);
    }

    #[test]
    fn dockers_directories_of_certificates_do_too() {
        let dir = tempfile::tempdir().unwrap();
        let host_dir = dir.path().join("x.io_5000_");
        fs::create_dir(&host_dir).unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            fs::write(host_dir.join(name), "").unwrap();
        }
        let hosts = for_domain(&[dir.path().to_owned()], "x.io:5000").unwrap().unwrap();
        assert_eq!(hosts[0].trust.ca, [host_dir.join("ca.crt")]);
        assert_eq!(hosts[0].trust.client.as_ref().unwrap().key, host_dir.join("me.key"));
        fs::remove_file(host_dir.join("me.key")).unwrap();
        assert!(for_domain(&[dir.path().to_owned()], "x.io:5000").is_err());
    }

    #[test]
    fn times_are_read_as_go_does() {
        for (text, expected) in [
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5h", Some(5_400_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("1d", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_millis()), expected, "{text}");
        }
    }
}
