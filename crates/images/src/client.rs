//! HTTP clients for registries, shared by all pulls: one for each set of
//! certificates, so that connections are used again.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv6Addr},
    time::SystemTime,
};

use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};

use crate::{
    PullError,
    error::chain,
    hosts::{self, Host},
    options::NetworkOptions,
    tls::{Roots, Trust},
};

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 10;
/// The most sets of clients that are kept, one a set of certificates.
const MAX_CLIENTS: usize = 64;

/// Connections to registries, shared by all pulls.
#[derive(Debug)]
pub(crate) struct Connections {
    roots: Roots,
    options: NetworkOptions,
    clients: Mutex<HashMap<Key, Clients>>,
}

/// What makes clients different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    trust: Trust,
    /// When the files of certificates changed last.
    changed: Vec<Option<SystemTime>>,
    /// No proxy leads to this machine.
    direct: bool,
}

/// The clients for one host.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// Follows redirects, as blobs need it.
    pub following: Client,
    /// Follows none, for requests whose body holds a secret: it would go along.
    pub staying: Client,
}

impl Connections {
    pub fn new(options: NetworkOptions) -> Self {
        Self { roots: Roots::load(), options, clients: Mutex::default() }
    }

    pub fn options(&self) -> &NetworkOptions {
        &self.options
    }

    /// Returns the clients for a host.
    pub fn clients(&self, host: &Host) -> Result<Clients, PullError> {
        let changed = |path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let key = Key {
            changed: host.trust.ca.iter().map(changed).collect(),
            trust: host.trust.clone(),
            direct: hosts::is_loopback(&host.name()),
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
                .connect_timeout(self.options.dial_timeout)
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

/// Follows a redirect to http and https only, never from TLS to the clear, never to
/// where clouds keep their machines' secrets. The client leaves credentials behind
/// when the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_tls = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
    let good = match attempt.url().scheme() {
        "https" => true,
        "http" => !from_tls,
        _ => false,
    };
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if good && !is_link_local(attempt.url()) {
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
