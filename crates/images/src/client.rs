//! Requests to registries (OCI distribution specification): hosts in their order,
//! authentication, tries, limits, and the registry's own words in errors.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
    redirect,
};

use crate::{
    PullError,
    auth::{Auth, Credentials},
    error::{chain, one_line},
    hosts::Host,
    options::NetworkOptions,
    reference::Reference,
    tls::{Roots, Trust},
    token::{self, Challenge},
};

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 10;
/// The most that is read of an error's body.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// The most clients that are kept, one a set of certificates.
const MAX_CLIENTS: usize = 64;

/// Connections to registries, shared by all pulls.
#[derive(Debug)]
pub(crate) struct Connections {
    roots: Roots,
    options: NetworkOptions,
    clients: Mutex<HashMap<Trust, Client>>,
}

/// One pull's view of its registry.
#[derive(Debug)]
pub(crate) struct Registry {
    connections: Arc<Connections>,
    pub(crate) reference: Reference,
    hosts: Vec<Host>,
    auth: Option<Auth>,
    /// Headers that worked, by host.
    tokens: Mutex<HashMap<String, HeaderValue>>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Below the repository: `manifests/latest`, `blobs/sha256:…`.
    pub path: &'a str,
    /// For errors: `manifest latest of docker.io/library/busybox`.
    pub what: &'a str,
    /// What a token is asked for.
    pub scope: &'a str,
    pub accept: &'a str,
    /// The first byte that is wanted.
    pub from: u64,
    pub progress_timeout: Duration,
}

impl Connections {
    pub(crate) fn new(options: NetworkOptions) -> Self {
        Self { roots: Roots::load(), options, clients: Mutex::default() }
    }

    pub(crate) fn options(&self) -> &NetworkOptions {
        &self.options
    }

    fn client(&self, host: &Host) -> Result<Client, PullError> {
        if let Some(client) = self.clients.lock().get(&host.trust) {
            return Ok(client.clone());
        }
        let failed = |error: &(dyn std::error::Error + 'static)| PullError::Registry {
            host: host.name(),
            step: "set up TLS".to_owned(),
            message: chain(error),
        };
        let tls = self.roots.client_config(&host.trust).map_err(|e| failed(&e))?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(self.options.dial_timeout)
            .redirect(redirect::Policy::custom(follow))
            .user_agent(concat!("corten/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| failed(&e))?;
        let mut clients = self.clients.lock();
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(host.trust.clone(), client.clone());
        Ok(client)
    }
}

/// Follows a redirect to http and https only, never from TLS to the clear. The client
/// leaves credentials behind when the host changes.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_tls = attempt.previous().last().is_some_and(|u| u.scheme() == "https");
    match attempt.url().scheme() {
        _ if attempt.previous().len() > MAX_REDIRECTS => attempt.error("too many redirects"),
        "https" => attempt.follow(),
        "http" if !from_tls => attempt.follow(),
        _ => attempt.error("a redirect to where no registry is"),
    }
}

impl Registry {
    pub(crate) fn new(
        connections: Arc<Connections>,
        reference: Reference,
        hosts: Vec<Host>,
        auth: Option<Auth>,
    ) -> Self {
        Self { connections, reference, hosts, auth, tokens: Mutex::default() }
    }

    fn options(&self) -> &NetworkOptions {
        &self.connections.options
    }

    /// Gets a whole document, of at most `limit` bytes, from the first host that has it.
    /// `check` refuses what is not what was asked for; then the next host is asked.
    ///
    /// # Errors
    /// The last host's, with what the mirrors said.
    pub(crate) async fn document<T>(
        &self,
        path: &str,
        what: &str,
        accept: &str,
        limit: usize,
        by_tag: bool,
        check: impl Fn(Bytes) -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let mut before: Vec<PullError> = Vec::new();
        for host in self.hosts.iter().filter(|h| h.pulls && (h.resolves || !by_tag)) {
            let got = async {
                let response = self.get(host, path, what, accept, 0).await?;
                let timeout = self.options().progress_timeout;
                check(read_all(response, limit, &host.name(), timeout).await?)
            };
            match got.await {
                Ok(value) => return Ok(value),
                Err(error) => before.push(error),
            }
        }
        Err(summary(before, what))
    }

    /// Opens a blob from byte `from` on. Returns the response and the first byte that it
    /// has, which is 0 where the host does not serve ranges.
    ///
    /// # Errors
    /// The last host's, with what the mirrors said.
    pub(crate) async fn blob(
        &self,
        path: &str,
        what: &str,
        from: u64,
    ) -> Result<(Response, u64, String), PullError> {
        let mut before = Vec::new();
        for host in self.hosts.iter().filter(|h| h.pulls) {
            match self.get(host, path, what, "*/*", from).await {
                Ok(response) => {
                    let start =
                        if response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
                    return Ok((response, start, host.name()));
                }
                Err(error) => before.push(error),
            }
        }
        Err(summary(before, what))
    }

    /// Sends a request to one host, again where that can help.
    async fn get(
        &self,
        host: &Host,
        path: &str,
        what: &str,
        accept: &str,
        from: u64,
    ) -> Result<Response, PullError> {
        let scope = format!("repository:{}:pull", self.reference.path());
        let progress_timeout = self.options().progress_timeout;
        let request = Request { path, what, scope: &scope, accept, from, progress_timeout };
        let mut pause = self.options().backoff;
        let mut tried = 1;
        loop {
            match self.try_once(host, &request).await {
                Ok(response) => return Ok(response),
                Err(Failure { error, after: Some(after) }) if tried < self.options().attempts => {
                    tracing::debug!(%error, tried, "trying again");
                    tokio::time::sleep(after.max(pause).min(self.options().max_backoff)).await;
                }
                Err(failure) => return Err(failure.error),
            }
            pause = pause.saturating_mul(2);
            tried += 1;
        }
    }

    async fn try_once(&self, host: &Host, request: &Request<'_>) -> Result<Response, Failure> {
        let client = self.connections.client(host).map_err(Failure::last)?;
        let name = host.name();
        let url = self.url(host, request.path);
        let credentials = self.credentials(&name, host.mirror).map_err(Failure::last)?;
        let known = self.tokens.lock().get(&name).cloned();
        let first = known.or_else(|| match &credentials {
            Credentials::Bearer(token) => token::bearer(token),
            _ => None,
        });
        let response = self.send(&client, &url, request, first, &name).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return accept(response, request, &name).await;
        }
        let challenge = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .next();
        let Some(challenge) = challenge else { return accept(response, request, &name).await };
        let header = token::fetch(&client, &host.base, &challenge, &credentials, request)
            .await
            .map_err(Failure::from)?;
        let Some(header) = header else { return accept(response, request, &name).await };
        self.tokens.lock().insert(name.clone(), header.clone());
        let response = self.send(&client, &url, request, Some(header), &name).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.tokens.lock().remove(&name);
        }
        accept(response, request, &name).await
    }

    /// A mirror is told which registry it stands in for.
    fn url(&self, host: &Host, path: &str) -> Url {
        let mut url = host.base.clone();
        url.set_path(&format!(
            "{}/{}/{path}",
            host.base.path().trim_end_matches('/'),
            self.reference.path()
        ));
        if host.mirror {
            url.query_pairs_mut().append_pair("ns", self.reference.domain());
        }
        url
    }

    /// Credentials go to the registry that the image's name says, and to another host
    /// only where they name that one.
    fn credentials(&self, host: &str, mirror: bool) -> Result<Credentials, PullError> {
        let Some(auth) = &self.auth else { return Ok(Credentials::Anonymous) };
        let for_this_host = if mirror {
            !auth.names_no_server() && auth.is_for(host)
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

    async fn send(
        &self,
        client: &Client,
        url: &Url,
        request: &Request<'_>,
        header: Option<HeaderValue>,
        host: &str,
    ) -> Result<Response, Failure> {
        let mut query = client.get(url.clone()).header(ACCEPT, request.accept);
        if let Some(header) = header {
            query = query.header(AUTHORIZATION, header);
        }
        if request.from > 0 {
            query = query.header(RANGE, format!("bytes={}-", request.from));
        }
        match tokio::time::timeout(request.progress_timeout, query.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let again = !error.is_redirect() && !error.is_builder();
                let error = unavailable(host, request.what, &error);
                Err(Failure { error, after: again.then_some(Duration::ZERO) })
            }
            Err(_) => Err(Failure {
                error: stalled(host, request.what, request.progress_timeout),
                after: Some(Duration::ZERO),
            }),
        }
    }
}

/// A try that failed, and after which pause another can help.
struct Failure {
    error: PullError,
    after: Option<Duration>,
}

impl Failure {
    fn last(error: PullError) -> Self {
        Self { error, after: None }
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        let again = matches!(error, PullError::RegistryUnavailable { .. });
        Self { error, after: again.then_some(Duration::ZERO) }
    }
}

async fn accept(
    response: Response,
    request: &Request<'_>,
    host: &str,
) -> Result<Response, Failure> {
    let status = response.status();
    if status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT {
        return Ok(response);
    }
    let after =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
    let body = read_all(response, MAX_ERROR_BYTES, host, request.progress_timeout)
        .await
        .unwrap_or_default();
    let message = registry_text(&body);
    let (host, what) = (host.to_owned(), request.what.to_owned());
    Err(match status.as_u16() {
        404 => Failure::last(PullError::NotFound { host, what, message }),
        status @ (401 | 403) => {
            Failure::last(PullError::Unauthorized { host, what, status, message })
        }
        status @ (408 | 429 | 500..) => Failure {
            error: PullError::RegistryUnavailable {
                host,
                step: format!("get {what}"),
                reason: format!("status {status}: {message}"),
            },
            after: Some(after.map_or(Duration::ZERO, Duration::from_secs)),
        },
        status => Failure::last(PullError::Registry {
            host,
            step: format!("get {what}"),
            message: format!("status {status}: {message}"),
        }),
    })
}

/// The registry's own words: `errors[].message` and `detail`, or the body's beginning.
pub(crate) fn registry_text(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) if !errors.is_empty() => {
            let each = errors.iter().map(|e| format!("{}: {}", e.code, e.message));
            each.collect::<Vec<_>>().join("; ")
        }
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    let line = one_line(&text);
    if line.is_empty() { "the registry gave no reason".to_owned() } else { line }
}

/// Reads a body of at most `limit` bytes that does not stop for longer than `timeout`.
pub(crate) async fn read_all(
    mut response: Response,
    limit: usize,
    host: &str,
    timeout: Duration,
) -> Result<Bytes, PullError> {
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response, host, "an answer", timeout).await? {
        if body.len() + chunk.len() > limit {
            return Err(PullError::LimitExceeded {
                what: format!("an answer of {host}"),
                limit: format!("{limit} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// Waits for a body's next bytes, for as long as `timeout`.
pub(crate) async fn next_chunk(
    response: &mut Response,
    host: &str,
    what: &str,
    timeout: Duration,
) -> Result<Option<Bytes>, PullError> {
    match tokio::time::timeout(timeout, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(unavailable(host, what, &error)),
        Err(_) => Err(stalled(host, what, timeout)),
    }
}

fn stalled(host: &str, what: &str, timeout: Duration) -> PullError {
    PullError::RegistryUnavailable {
        host: host.to_owned(),
        step: format!("get {what}"),
        reason: format!("nothing came for {} s", timeout.as_secs()),
    }
}

/// A connection that did not come up, or broke.
pub(crate) fn unavailable(host: &str, what: &str, error: &reqwest::Error) -> PullError {
    PullError::RegistryUnavailable {
        host: host.to_owned(),
        step: format!("get {what}"),
        reason: chain(error),
    }
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
