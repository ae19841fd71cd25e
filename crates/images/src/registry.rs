//! One pull's view of its registry (OCI distribution specification): hosts in their
//! order, authentication, tries.
//!
//! What must never happen: credentials go to a host that they are not for.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE},
};

use crate::{
    PullError,
    answer::{Failure, Origin},
    auth::{Auth, Credentials},
    client::{Clients, Connections, MAX_REDIRECTS, is_same_server, redirected},
    counters::Counters,
    downloads::Slot,
    error::one_line,
    hosts::Host,
    options::NetworkOptions,
    reference::Reference,
    token::{self, Challenge},
};

/// How often a mirror is asked where trying again can help.
const MIRROR_ATTEMPTS: u32 = 2;

/// One pull's view of its registry.
#[derive(Debug)]
pub(crate) struct Registry {
    connections: Arc<Connections>,
    pub(crate) reference: Reference,
    hosts: Vec<Host>,
    auth: Option<Auth>,
    /// Headers that worked, by host.
    tokens: Mutex<HashMap<String, HeaderValue>>,
    /// Mirrors that this pull asks no more: they are down, or what they served was
    /// not what was asked for.
    avoided: Mutex<HashSet<String>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Below the repository: `manifests/latest`, `blobs/sha256:…`.
    pub path: &'a str,
    /// For errors: `manifest latest of docker.io/library/busybox`.
    pub what: &'a str,
    pub accept: &'a str,
    /// The first byte that is wanted.
    pub from: u64,
    /// The byte after the last that is wanted; `None` for all.
    pub until: Option<u64>,
}

impl<'a> Request<'a> {
    /// Asks for all of it.
    pub fn new(path: &'a str, what: &'a str, accept: &'a str) -> Self {
        Self { path, what, accept, from: 0, until: None }
    }

    fn range(&self) -> Option<String> {
        match (self.from, self.until) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(until)) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
        }
    }
}

/// A whole document.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// As the registry gave it, or empty.
    pub content_type: String,
    pub bytes: Bytes,
}

/// A blob that has begun to come.
#[derive(Debug)]
pub(crate) struct Blob {
    pub response: Response,
    /// The first byte that comes: 0 where the host serves no ranges.
    pub start: u64,
    /// Whether only a part was sent, as was asked.
    pub partial: bool,
    /// `host:port`.
    pub host: String,
    /// Held as long as it comes.
    pub slot: Slot,
}

impl Registry {
    pub fn new(
        connections: Arc<Connections>,
        reference: Reference,
        hosts: Vec<Host>,
        auth: Option<Auth>,
    ) -> Self {
        let (tokens, avoided) = (Mutex::default(), Mutex::default());
        Self { connections, reference, hosts, auth, tokens, avoided }
    }

    pub fn options(&self) -> &NetworkOptions {
        self.connections.options()
    }

    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Gets a whole document, of at most `limit` bytes, from the first host that has it.
    /// `check` refuses what is not what was asked for; then the next host is asked.
    ///
    /// # Errors
    /// The last host's, with what the mirrors said.
    pub async fn document<T>(
        &self,
        request: Request<'_>,
        limit: u64,
        by_tag: bool,
        check: impl Fn(&Fetched) -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let mut before = Vec::new();
        for host in self.asked(by_tag) {
            match self.document_at(host, &request, limit).await {
                Ok(fetched) => match check(&fetched) {
                    Ok(checked) => return Ok(checked),
                    Err(error) => {
                        self.avoid(host, &error);
                        before.push(error);
                    }
                },
                Err(error) => before.push(error),
            }
        }
        Err(summary(before, request.what))
    }

    /// Opens a blob, when it is its turn.
    ///
    /// # Errors
    /// The last host's, with what the mirrors said.
    pub async fn blob(&self, request: Request<'_>) -> Result<Blob, PullError> {
        let mut before = Vec::new();
        for host in self.asked(false) {
            let slot = self.connections.downloads.enter(&host.key()).await;
            match self.with_tries(host, &request, |response| async { Ok(response) }).await {
                Ok(response) => {
                    let partial = response.status() == StatusCode::PARTIAL_CONTENT;
                    let start = if partial { request.from } else { 0 };
                    return Ok(Blob { response, start, partial, host: host.name(), slot });
                }
                Err(error) => before.push(error),
            }
        }
        Err(summary(before, request.what))
    }

    /// Says that what came from `hosts` was not what was asked for. Returns whether
    /// there are others to ask.
    pub fn distrust(&self, hosts: &HashSet<String>, error: &PullError) -> bool {
        let mut found = false;
        for host in self.hosts.iter().filter(|h| h.mirror && hosts.contains(&h.name())) {
            found |= self.avoid(host, error);
        }
        found && self.asked(false).next().is_some()
    }

    /// The hosts that may be asked, mirrors that failed left out.
    fn asked(&self, by_tag: bool) -> impl Iterator<Item = &Host> {
        self.hosts
            .iter()
            .filter(move |host| host.pulls && (host.resolves || !by_tag))
            .filter(|host| !self.avoided.lock().contains(&host.name()))
            .filter(|host| !(host.mirror && self.connections.health.is_resting(&host.key())))
    }

    /// Asks a mirror no more in this pull. The registry itself is always asked.
    fn avoid(&self, host: &Host, error: &PullError) -> bool {
        let added = host.mirror && self.avoided.lock().insert(host.name());
        if added {
            tracing::warn!(mirror = %host.name(), %error, "the mirror is not asked again in this pull");
        }
        added
    }

    async fn document_at(
        &self,
        host: &Host,
        request: &Request<'_>,
        limit: u64,
    ) -> Result<Fetched, PullError> {
        let name = host.name();
        let origin = self.origin(&name, request.what);
        self.with_tries(host, request, |response| async move {
            let content_type = response.headers().get(CONTENT_TYPE);
            let content_type =
                content_type.and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            Ok(Fetched { content_type, bytes: origin.read_all(response, limit).await? })
        })
        .await
    }

    /// Sends a request to one host and reads the answer, again where that can help.
    async fn with_tries<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        host: &Host,
        request: &Request<'_>,
        read: impl Fn(Response) -> F,
    ) -> Result<T, PullError> {
        let mut tried = 1;
        loop {
            let once = async { read(self.try_once(host, request).await?).await };
            match once.await {
                Ok(value) => {
                    if host.mirror {
                        self.connections.health.answered(&host.key());
                    }
                    return Ok(value);
                }
                Err(Failure { error, again: Some(after) }) if tried < self.attempts(host) => {
                    Counters::count(&self.connections.counters.retries);
                    let pause = self.pause(tried, after);
                    tracing::debug!(%error, tried, pause_ms = pause.as_millis(), "trying again");
                    tokio::time::sleep(pause).await;
                }
                Err(Failure { error, .. }) => {
                    if matches!(error, PullError::RegistryUnavailable { .. }) {
                        self.rest(host);
                        self.avoid(host, &error);
                    }
                    return Err(error);
                }
            }
            tried += 1;
        }
    }

    /// Behind a mirror there is somebody else to ask.
    fn attempts(&self, host: &Host) -> u32 {
        let attempts = self.options().attempts;
        if host.mirror { attempts.min(MIRROR_ATTEMPTS) } else { attempts }
    }

    /// Lets a mirror that is down rest, for all pulls.
    fn rest(&self, host: &Host) {
        if host.mirror {
            let rest = self.connections.health.failed(&host.key());
            Counters::count(&self.connections.counters.mirror_failures);
            tracing::info!(mirror = %host.key(), rest_s = rest.as_secs(), "the mirror is down");
        }
    }

    /// Returns how long to wait after the try of that number, which asks for `after`.
    pub fn pause(&self, tried: u32, after: Duration) -> Duration {
        let options = self.options();
        let doubled = options.backoff.saturating_mul(1 << tried.saturating_sub(1).min(16));
        after.max(doubled.min(options.max_backoff))
    }

    async fn try_once(&self, host: &Host, request: &Request<'_>) -> Result<Response, Failure> {
        let clients = self.connections.clients(host).map_err(Failure::last)?;
        let name = host.name();
        let origin = self.origin(&name, request.what);
        let credentials = self.credentials(host).map_err(Failure::last)?;
        let known = self.tokens.lock().get(&name).cloned();
        let first = known.or_else(|| match &credentials {
            Credentials::Bearer(token) => token::bearer(token),
            _ => None,
        });
        let response = self.send(&clients, host, request, first, &origin).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return origin.expect_ok(response).await;
        }
        let Some(challenge) = challenge(&response) else {
            return origin.expect_ok(response).await;
        };
        let repository = host.path.as_deref().unwrap_or(self.reference.path());
        let scope = format!("repository:{repository}:pull");
        let header =
            token::fetch(&clients, &host.base, &challenge, &scope, &credentials, &origin).await?;
        let Some(header) = header else { return origin.expect_ok(response).await };
        self.tokens.lock().insert(name.clone(), header.clone());
        let response = self.send(&clients, host, request, Some(header), &origin).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.lock().remove(&name);
        }
        origin.expect_ok(response).await
    }

    /// Sends a request, and follows where the registry redirects. What is secret goes
    /// to the host that it is for, and no further.
    async fn send(
        &self,
        clients: &Clients,
        host: &Host,
        request: &Request<'_>,
        header: Option<HeaderValue>,
        origin: &Origin<'_>,
    ) -> Result<Response, Failure> {
        let first = self.url(host, request.path);
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut query = clients.staying.get(url.clone()).header(ACCEPT, request.accept);
            if is_same_server(&first, &url) {
                for (name, value) in &host.headers {
                    query = query.header(name, value);
                }
                if let Some(header) = &header {
                    query = query.header(AUTHORIZATION, header);
                }
            }
            if let Some(range) = request.range() {
                query = query.header(RANGE, range);
            }
            Counters::count(&self.connections.counters.requests);
            let response = origin.send(query).await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            url = redirected(&url, location).map_err(|why| not_followed(origin, why))?;
        }
        Err(not_followed(origin, "too many redirects"))
    }

    /// A host that stands in for another is told for which.
    fn url(&self, host: &Host, path: &str) -> Url {
        let mut url = host.base.clone();
        let root = host.base.path().trim_end_matches('/');
        let repository = host.path.as_deref().unwrap_or(self.reference.path());
        url.set_path(&format!("{root}/{repository}/{path}"));
        if host.stands_in {
            url.query_pairs_mut().append_pair("ns", self.reference.domain());
        }
        url
    }

    /// Credentials go to the registry that the image's name says (or to the server
    /// that the configuration says is that registry), and to a mirror only where they
    /// name it.
    fn credentials(&self, host: &Host) -> Result<Credentials, PullError> {
        let Some(auth) = &self.auth else { return Ok(Credentials::Anonymous) };
        let for_this_host = if host.mirror {
            !auth.names_no_server() && auth.is_for(&host.name())
        } else {
            auth.is_for(self.reference.domain())
        };
        if !for_this_host {
            return Ok(Credentials::Anonymous);
        }
        auth.credentials().map_err(|reason| PullError::InvalidAuth {
            reference: self.reference.to_string(),
            reason,
        })
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn not_followed(origin: &Origin<'_>, why: &str) -> Failure {
    Failure::last(PullError::Registry {
        host: origin.host.to_owned(),
        step: format!("get {}", origin.what),
        message: why.to_owned(),
    })
}

/// Returns what the registry asks for: a token rather than a password.
fn challenge(response: &Response) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    let all: Vec<_> = headers.filter_map(|v| Challenge::parse(v.to_str().ok()?)).collect();
    let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
    bearer.or(all.first()).cloned()
}

fn summary(mut errors: Vec<PullError>, what: &str) -> PullError {
    let Some(last) = errors.pop() else {
        return PullError::InvalidImage {
            what: what.to_owned(),
            reason: "no host is configured for it that may be asked".to_owned(),
        };
    };
    if errors.is_empty() {
        return last;
    }
    let mirrors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    PullError::AfterMirrors { error: Box::new(last), mirrors: one_line(&mirrors) }
}
