//! Authentication towards a registry: what it asks for, and the token server's answer.

use reqwest::{Client, Url, header::HeaderValue};
use serde::Deserialize;

use crate::{
    PullError,
    auth::Credentials,
    client::{Request, registry_text, unavailable},
};

/// The most bytes of a token server's answer.
const MAX_TOKEN_BYTES: usize = 256 << 10;

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

/// Gets a token for a request.
///
/// # Errors
/// Fails where the token server cannot be used, or refuses.
pub(crate) async fn fetch(
    client: &Client,
    registry: &Url,
    challenge: &Challenge,
    credentials: &Credentials,
    request: &Request<'_>,
) -> Result<Option<HeaderValue>, PullError> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Ok(basic(credentials));
    };
    let failed = |message: String| PullError::Registry {
        host: registry.authority().to_owned(),
        step: "authenticate".to_owned(),
        message,
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
    let scope = scope.clone().unwrap_or_else(|| request.scope.to_owned());
    let service = service.clone().unwrap_or_default();
    let query = match credentials {
        Credentials::Identity(token) => client.post(url.clone()).form(&[
            ("grant_type", "refresh_token"),
            ("service", service.as_str()),
            ("client_id", "corten"),
            ("scope", scope.as_str()),
            ("refresh_token", token.as_str()),
        ]),
        Credentials::Basic { username, password } => {
            client.get(with_query(&url, &service, &scope)).basic_auth(username, Some(password))
        }
        Credentials::Anonymous | Credentials::Bearer(_) => {
            client.get(with_query(&url, &service, &scope))
        }
    };
    let answer = query.send().await.map_err(|e| unavailable(url.authority(), "get a token", &e))?;
    let status = answer.status();
    let body =
        crate::client::read_all(answer, MAX_TOKEN_BYTES, url.authority(), request.progress_timeout)
            .await?;
    if !status.is_success() {
        return Err(refused(&url, request, status.as_u16(), &body));
    }
    let token: Answer = serde_json::from_slice(&body)
        .map_err(|e| failed(format!("its token server's answer: {e}")))?;
    let token = token
        .token
        .or(token.access_token)
        .ok_or_else(|| failed("its token server gave no token".to_owned()))?;
    bearer(&token)
        .map(Some)
        .ok_or_else(|| failed("its token server's token is no header".to_owned()))
}

fn refused(url: &Url, request: &Request<'_>, status: u16, body: &[u8]) -> PullError {
    let host = url.authority().to_owned();
    let message = registry_text(body);
    match status {
        429 | 500.. => PullError::RegistryUnavailable {
            host,
            step: "get a token".to_owned(),
            reason: format!("status {status}: {message}"),
        },
        _ => PullError::Unauthorized { host, what: request.what.to_owned(), status, message },
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
