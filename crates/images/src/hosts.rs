//! Which hosts are asked for an image: `hosts.toml` as containerd has it, then
//! `registries.conf` as CRI-O has it, then the registry that the name says.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};

use crate::{
    PullError, hosts_toml,
    reference::{Reference, Version},
    registries_conf::Registries,
    tls::Trust,
};

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
    /// Which certificates are taken and shown.
    pub trust: Trust,
    /// How long a connection may take, where that is configured.
    pub dial_timeout: Option<Duration>,
    /// Headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The repository's path there, where it is another than the name's.
    pub path: Option<String>,
}

impl Host {
    /// Makes a host with nothing special about it.
    pub(crate) fn plain(base: Url, mirror: bool) -> Self {
        Self {
            base,
            mirror,
            stands_in: mirror,
            resolves: true,
            pulls: true,
            trust: Trust::default(),
            dial_timeout: None,
            headers: Vec::new(),
            path: None,
        }
    }

    /// `host:port`, for errors and for credentials.
    pub(crate) fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// What is remembered of its health by.
    pub(crate) fn key(&self) -> String {
        format!("{}://{}", self.base.scheme(), self.name())
    }
}

/// Returns the hosts for an image, in the order in which they are asked.
///
/// # Errors
/// Fails where a file is there and cannot be used, and where the registry is blocked.
pub(crate) fn for_image(
    certs_dirs: &[PathBuf],
    registries: &Registries,
    reference: &Reference,
) -> Result<Vec<Host>, PullError> {
    let rule = registries.rule_for(reference);
    if let Some(rule) = rule.filter(|rule| rule.blocked) {
        return Err(PullError::Blocked {
            reference: reference.to_string(),
            prefix: rule.prefix.clone(),
        });
    }
    if let Some(hosts) = hosts_toml::for_domain(certs_dirs, reference.domain())? {
        return Ok(hosts);
    }
    if let Some(rule) = rule {
        let by_digest = matches!(reference.version(), Version::Digest(_));
        return rule.hosts(reference, by_digest);
    }
    let path = Path::new("the defaults");
    Ok(vec![Host::plain(api_root(path, &default_server(reference.domain()), false)?, false)])
}

/// The registry itself. Docker Hub's API is under another name; a registry on this
/// machine is spoken to in the clear.
pub(crate) fn default_server(domain: &str) -> String {
    match domain {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        _ if is_loopback(domain) => format!("http://{domain}"),
        _ => format!("https://{domain}"),
    }
}

/// Reads a server's address, and adds where its API begins.
///
/// # Errors
/// Fails on what is no URL of http or https.
pub(crate) fn api_root(path: &Path, url: &str, as_it_is: bool) -> Result<Url, PullError> {
    let bad = |reason: String| PullError::HostsFile { path: path.to_owned(), reason };
    let with_scheme = if url.contains("://") { url.to_owned() } else { default_server(url) };
    let mut base: Url =
        with_scheme.parse().map_err(|e| bad(format!("\"{url}\" is not a URL: {e}")))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(bad(format!("\"{url}\" is not a URL of http or https")));
    }
    if !as_it_is {
        let root = format!("{}/v2", base.path().trim_end_matches('/').trim_end_matches("/v2"));
        base.set_path(&root);
    }
    Ok(base)
}

pub(crate) fn is_loopback(domain: &str) -> bool {
    let host = match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => domain.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(certs_dirs: &[PathBuf], conf: &str, name: &str) -> Vec<String> {
        let registries = Registries::parse(Path::new("x.conf"), conf).unwrap();
        let hosts = for_image(certs_dirs, &registries, &name.parse().unwrap()).unwrap();
        hosts.iter().map(|h| h.base.to_string()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        for (name, base) in [
            ("docker.io/library/a", "https://registry-1.docker.io/v2"),
            ("registry.k8s.io/a", "https://registry.k8s.io/v2"),
            ("localhost:5000/a", "http://localhost:5000/v2"),
            ("127.0.0.9:5000/a", "http://127.0.0.9:5000/v2"),
            ("[::1]:5000/a", "http://[::1]:5000/v2"),
            ("127.0.0.1.example.com/a", "https://127.0.0.1.example.com/v2"),
        ] {
            assert_eq!(bases(&[], "", name), [base], "{name}");
        }
    }

    #[test]
    fn hosts_toml_comes_before_registries_conf_and_nothing_before_a_block() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("x.io")).unwrap();
        std::fs::write(dir.path().join("x.io/hosts.toml"), "server = \"https://toml.io\"").unwrap();
        let dirs = [dir.path().to_owned()];
        let conf = "[[registry]]\nlocation = \"x.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\n\
                    [[registry]]\nlocation = \"y.io\"\n[[registry.mirror]]\nlocation = \"m.io\"\n\
                    [[registry]]\nlocation = \"x.io/bad\"\nblocked = true\n";
        assert_eq!(bases(&dirs, conf, "x.io/a"), ["https://toml.io/v2"]);
        assert_eq!(bases(&dirs, conf, "y.io/a"), ["https://m.io/v2", "https://y.io/v2"]);
        let registries = Registries::parse(Path::new("x.conf"), conf).unwrap();
        let error = for_image(&dirs, &registries, &"x.io/bad/a:1".parse().unwrap()).unwrap_err();
        assert!(matches!(error, PullError::Blocked { .. }), "{error}");
    }
}
