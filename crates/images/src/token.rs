//! Authentication towards a registry: what it asks for, and the token server's answer.

use reqwest::{Url, header::HeaderValue};
use serde::Deserialize;

use crate::{
    PullError,
    answer::{Failure, Origin},
    auth::Credentials,
    client::Clients,
    error::one_line,
};

/// The most bytes of a token server's answer.
const MAX_TOKEN_BYTES: u64 = 256 << 10;

/// What a registry asks for (RFC 9110, section 11.6.1; Docker's token specification).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A user name and password.
    Basic,
    /// A token of a token server.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header; `None` for schemes that are not known.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameters = parameters(rest);
        let get = |key: &str| {
            parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.clone())
        };
        Some(Self::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
    }
}

/// Reads `key="value"` and `key=value`, separated by commas.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_owned();
        let rest = rest.trim_start();
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.push((key, value.trim().to_owned()));
        text = after;
    }
    found
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Gets the header that answers a challenge; `None` where these credentials have none.
///
/// # Errors
/// Fails where the token server cannot be used, or refuses.
pub(crate) async fn fetch(
    clients: &Clients,
    registry: &Url,
    challenge: &Challenge,
    scope: &str,
    credentials: &Credentials,
    origin: &Origin<'_>,
) -> Result<Option<HeaderValue>, Failure> {
    let Challenge::Bearer { realm, service, scope: asked } = challenge else {
        return Ok(basic(credentials));
    };
    let failed = |message: String| {
        Failure::last(PullError::Registry {
            host: origin.host.to_owned(),
            step: "authenticate".to_owned(),
            message: one_line(&message),
        })
    };
    let url: Url = realm
        .parse()
        .map_err(|e| failed(format!("its token server \"{realm}\" is not a URL: {e}")))?;
    // A registry that is spoken to under TLS must not have the password sent in the clear.
    let scheme_is_good =
        url.scheme() == "https" || (url.scheme() == "http" && registry.scheme() == "http");
    if !scheme_is_good {
        return Err(failed(format!("its token server {} is not one of https", url.authority())));
    }
    let scope = asked.as_deref().unwrap_or(scope);
    let service = service.as_deref().unwrap_or_default();
    let query = match credentials {
        Credentials::Identity(token) => clients.staying.post(url.clone()).form(&[
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", "corten"),
            ("scope", scope),
            ("refresh_token", token.as_str()),
        ]),
        Credentials::Basic { username, password } => clients
            .following
            .get(with_query(&url, service, scope))
            .basic_auth(username, Some(password)),
        Credentials::Anonymous | Credentials::Bearer(_) => {
            clients.following.get(with_query(&url, service, scope))
        }
    };
    let name = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let what = format!("a token for {}", origin.what);
    let origin = Origin { host: &name, what: &what, ..*origin };
    let answer = origin.send(query).await?;
    if !answer.status().is_success() {
        return Err(denied(origin.refused(answer).await));
    }
    let body = origin.read_all(answer, MAX_TOKEN_BYTES).await?;
    read_answer(&body).map(Some).map_err(failed)
}

/// Reads what a token server answers: the header that its token is for.
pub(crate) fn read_answer(body: &[u8]) -> Result<HeaderValue, String> {
    let token: Answer = serde_json::from_slice(body)
        .map_err(|e| format!("its token server's answer is malformed: {e}"))?;
    let mut tokens = [token.token, token.access_token].into_iter().flatten();
    let token = tokens.find(|token| !token.is_empty());
    let token = token.ok_or("its token server gave no token")?;
    bearer(&token).ok_or_else(|| "its token server's token is no header".to_owned())
}

/// Token servers refuse with any status of 4xx: all mean that these credentials do not do.
fn denied(failure: Failure) -> Failure {
    match failure.error {
        PullError::NotFound { host, what, message } => {
            Failure::last(PullError::Unauthorized { host, what, status: 404, message })
        }
        PullError::Registry { host, step, message } => {
            Failure::last(PullError::Unauthorized { host, what: step, status: 400, message })
        }
        error => Failure { error, again: failure.again },
    }
}

fn with_query(url: &Url, service: &str, scope: &str) -> Url {
    let mut url = url.clone();
    if !service.is_empty() {
        url.query_pairs_mut().append_pair("service", service);
    }
    url.query_pairs_mut().append_pair("scope", scope);
    url
}

/// The header of Basic authentication.
pub(crate) fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    use base64::Engine as _;
    let Credentials::Basic { username, password } = credentials else { return None };
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {text}"))
}

/// The header of a token.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        for (text, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"",
                Some(bearer("https://a/token", Some("reg"), Some("repository:a/b:pull,push"))),
            ),
            ("bearer service=reg, realm=https://a", Some(bearer("https://a", Some("reg"), None))),
            ("Bearer service=\"x\"", None),
            ("Negotiate", None),
            ("", None),
            ("Bearer realm=\"unclosed", Some(bearer("unclosed", None, None))),
        ] {
            assert_eq!(Challenge::parse(text), expected, "{text}");
        }
    }
}
