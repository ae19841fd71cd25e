//! Which hosts are asked for an image: `hosts.toml` as containerd has it.
//!
//! ```toml
//! server = "https://registry.k8s.io"
//! [host."http://127.0.0.1:5000"]
//! capabilities = ["pull", "resolve"]
//! ```

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use reqwest::Url;
use toml::de::{DeTable, DeValue};

use crate::{PullError, tls::Trust};

/// The most bytes of a `hosts.toml`.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A host that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Up to and with the API's root: `https://registry-1.docker.io/v2`.
    pub base: Url,
    /// Whether it stands in for the registry that the name says.
    pub mirror: bool,
    /// Whether it has another name than the registry, and is told that one (`?ns=`).
    pub stands_in: bool,
    /// Whether it may say what a tag points to.
    pub resolves: bool,
    /// Whether it has blobs.
    pub pulls: bool,
    /// Which certificates are taken.
    pub trust: Trust,
}

impl Host {
    /// `host:port`, for errors and for credentials.
    pub(crate) fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// Returns the hosts for a registry's domain, in the order in which they are asked.
///
/// # Errors
/// Fails where a file is there and cannot be used.
pub(crate) fn for_domain(certs_dirs: &[PathBuf], domain: &str) -> Result<Vec<Host>, PullError> {
    for dir in certs_dirs {
        for name in [domain, "_default"] {
            let path = dir.join(name).join("hosts.toml");
            match read(&path) {
                Ok(text) => return parse(&path, &text, domain),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) => {}
                Err(e) => return Err(PullError::HostsFile { path, reason: e.to_string() }),
            }
        }
    }
    let path = Path::new("the defaults");
    Ok(vec![host(path, &default_server(domain), false, &toml::Table::new())?])
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

/// The registry itself. Docker Hub's API is under another name; a registry on this
/// machine is spoken to in the clear.
fn default_server(domain: &str) -> String {
    match domain {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        _ if is_loopback(domain) => format!("http://{domain}"),
        _ => format!("https://{domain}"),
    }
}

pub(crate) fn is_loopback(domain: &str) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => domain.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(path: &Path, text: &str, domain: &str) -> Result<Vec<Host>, PullError> {
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
    let bad = |reason: String| PullError::HostsFile { path: path.to_owned(), reason };
    let with_scheme = if url.contains("://") { url.to_owned() } else { default_server(url) };
    let mut base: Url =
        with_scheme.parse().map_err(|e| bad(format!("\"{url}\" is not a URL: {e}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(bad(format!("\"{url}\" is not a URL of http or https")));
    }
    let has = |what: &str| match keys.get("capabilities").and_then(toml::Value::as_array) {
        Some(list) => list.iter().any(|c| c.as_str() == Some(what)),
        None => true,
    };
    if !flag(keys, "override_path") {
        let root = format!("{}/v2", base.path().trim_end_matches('/').trim_end_matches("/v2"));
        base.set_path(&root);
    }
    for key in keys.keys() {
        let known = ["server", "host", "capabilities", "ca", "skip_verify", "override_path"];
        if !known.contains(&key.as_str()) {
            tracing::warn!(path = %path.display(), key, "a key of hosts.toml has no effect in this version");
        }
    }
    Ok(Host {
        base,
        mirror,
        stands_in: mirror,
        resolves: !mirror || has("resolve"),
        pulls: !mirror || has("pull"),
        trust: Trust { ca: certificates(path, keys), skip_verify: flag(keys, "skip_verify") },
    })
}

fn flag(keys: &toml::Table, key: &str) -> bool {
    keys.get(key).and_then(toml::Value::as_bool).unwrap_or(false)
}

/// `ca`: one file or several, relative to the `hosts.toml`.
fn certificates(path: &Path, keys: &toml::Table) -> Vec<PathBuf> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    match keys.get("ca") {
        Some(toml::Value::String(one)) => vec![dir.join(one)],
        Some(toml::Value::Array(many)) => {
            many.iter().filter_map(|c| Some(dir.join(c.as_str()?))).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(hosts: &[Host]) -> Vec<&str> {
        hosts.iter().map(|h| h.base.as_str()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        for (domain, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("registry.k8s.io", "https://registry.k8s.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.9:5000", "http://127.0.0.9:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("127.0.0.1.example.com", "https://127.0.0.1.example.com/v2"),
        ] {
            assert_eq!(bases(&for_domain(&[], domain).unwrap()), [base], "{domain}");
        }
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
        let hosts = for_domain(&dirs, "registry.k8s.io").unwrap();
        assert_eq!(
            bases(&hosts),
            ["http://z.example:5000/v2", "https://a.example/sub/v2", "https://up.example/v2"]
        );
        assert_eq!((hosts[0].resolves, hosts[0].pulls, hosts[2].resolves), (false, true, true));
        assert_eq!(hosts[1].trust.ca, [host_dir.join("ca.pem")]);
        assert_eq!(bases(&for_domain(&dirs, "other.io").unwrap()), ["https://other.io/v2"]);
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
        let hosts = for_domain(&dirs, "x.io").unwrap();
        assert_eq!(bases(&hosts), ["http://m.example/v2", "https://x.io/v2"]);
        for broken in ["not toml", "server = 1", "[host.\"ftp://x\"]"] {
            fs::write(&file, broken).unwrap();
            let error = for_domain(&dirs, "x.io").unwrap_err().to_string();
            assert!(error.contains("_default/hosts.toml"), "{error}");
        }
    }
}
