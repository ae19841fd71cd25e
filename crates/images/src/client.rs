//! HTTP clients for registries, shared by all pulls: one for each set of
//! certificates, so that connections are used again.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};

use crate::{
    PullError,
    counters::Counters,
    downloads::Downloads,
    error::chain,
    health::Health,
    hosts::{self, Host},
    options::NetworkOptions,
    tls::{Roots, Trust},
};

/// The most redirects of one request.
pub(crate) const MAX_REDIRECTS: usize = 10;
/// The most sets of clients that are kept, one a set of certificates.
const MAX_CLIENTS: usize = 64;

/// Connections to registries, shared by all pulls.
#[derive(Debug)]
pub(crate) struct Connections {
    roots: Roots,
    options: NetworkOptions,
    clients: Mutex<HashMap<Key, Clients>>,
    pub(crate) health: Health,
    pub(crate) downloads: Downloads,
    pub(crate) counters: Arc<Counters>,
}

/// What makes clients different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    trust: Trust,
    /// When the files of certificates changed last.
    changed: Vec<Option<SystemTime>>,
    /// No proxy leads to this machine.
    direct: bool,
    dial_timeout: Duration,
}

/// The clients for one host.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// Follows redirects, for token servers.
    pub following: Client,
    /// Follows none: what is sent holds a secret, and would go along.
    pub staying: Client,
}

impl Connections {
    pub fn new(options: NetworkOptions, counters: Arc<Counters>) -> Self {
        Self {
            roots: Roots::load(),
            clients: Mutex::default(),
            health: Health::new(options.mirror_rest, options.max_mirror_rest),
            downloads: Downloads::new(&options),
            options,
            counters,
        }
    }

    pub fn options(&self) -> &NetworkOptions {
        &self.options
    }

    /// Returns the clients for a host.
    pub fn clients(&self, host: &Host) -> Result<Clients, PullError> {
        let changed = |path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let usual = match host.mirror {
            true => self.options.mirror_dial_timeout,
            false => self.options.dial_timeout,
        };
        let key = Key {
            changed: host.trust.files().map(changed).collect(),
            trust: host.trust.clone(),
            direct: hosts::is_loopback(&host.name()),
            dial_timeout: host.dial_timeout.unwrap_or(usual),
        };
        if let Some(clients) = self.clients.lock().get(&key) {
            return Ok(clients.clone());
        }
        let made = self.make(&key).map_err(|message| PullError::Registry {
            host: host.name(),
            step: "set up TLS".to_owned(),
            message,
        })?;
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, made.clone());
        Ok(made)
    }

    fn make(&self, key: &Key) -> Result<Clients, String> {
        let tls = self.roots.client_config(&key.trust).map_err(|e| chain(&e))?;
        let make = |policy| {
            let mut builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(key.dial_timeout)
                .redirect(policy)
                .user_agent(concat!("corten/", env!("CARGO_PKG_VERSION")));
            if key.direct {
                builder = builder.no_proxy();
            }
            builder.build().map_err(|e| chain(&e))
        };
        Ok(Clients {
            following: make(redirect::Policy::custom(follow))?,
            staying: make(redirect::Policy::none())?,
        })
    }
}

/// Where a redirect of `from` leads, if registries may be there: to http and https
/// only, never from TLS to the clear, never to where clouds keep their machines'
/// secrets.
///
/// # Errors
/// Says why it is not followed.
pub(crate) fn redirected(from: &Url, location: Option<&str>) -> Result<Url, &'static str> {
    let to = location.and_then(|location| from.join(location).ok());
    let to = to.ok_or("a redirect to nowhere")?;
    if may_follow(from, &to) { Ok(to) } else { Err("a redirect to where no registry is") }
}

/// Tells whether credentials for one may go to the other.
pub(crate) fn is_same_server(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

fn may_follow(from: &Url, to: &Url) -> bool {
    let good = match to.scheme() {
        "https" => true,
        "http" => from.scheme() != "https",
        _ => false,
    };
    good && !is_link_local(to)
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from = attempt.previous().last().cloned();
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if from.is_none_or(|from| may_follow(&from, attempt.url())) {
        attempt.follow()
    } else {
        attempt.error("a redirect to where no registry is")
    }
}

fn is_link_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(IpAddr::V4(v4)) => v4.is_link_local() || v4.is_unspecified(),
        Ok(IpAddr::V6(v6)) => is_link_local_v6(v6),
        Err(_) => false,
    }
}

fn is_link_local_v6(v6: Ipv6Addr) -> bool {
    let mapped = v6.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local() || v4.is_unspecified());
    mapped || v6.is_unicast_link_local() || v6.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_judged() {
        let from: Url = "https://a.io/v2/x".parse().unwrap();
        let to = |location: &str| redirected(&from, Some(location)).map(|url| url.to_string());
        assert_eq!(to("/other").as_deref(), Ok("https://a.io/other"));
        assert_eq!(to("https://b.io/x").as_deref(), Ok("https://b.io/x"));
        for bad in ["http://a.io/x", "file:///etc/passwd", "https://169.254.169.254/", "https://"] {
            assert!(to(bad).is_err(), "{bad}");
        }
        assert!(redirected(&from, None).is_err());
        assert!(!is_same_server(&from, &"https://a.io:444/".parse().unwrap()));
        assert!(is_same_server(&from, &"https://a.io:443/".parse().unwrap()));
    }

    #[test]
    fn link_local_addresses_are_known_in_all_their_forms() {
        for (url, expected) in [
            ("http://169.254.169.254/latest", true),
            ("http://2852039166/", true),
            ("http://[::ffff:169.254.169.254]/", true),
            ("http://[fe80::1]/", true),
            ("http://0.0.0.0/", true),
            ("http://10.0.0.1/", false),
            ("https://example.com/", false),
        ] {
            assert_eq!(is_link_local(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
