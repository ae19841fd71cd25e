//! Credentials for a registry, as a request gives them. They are never logged.

use std::fmt;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// The CRI's `AuthConfig`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Its password.
    pub password: String,
    /// `username:password` in base64, where the two above are empty.
    pub auth: String,
    /// For which registry these are; another one is asked anonymously.
    pub server_address: String,
    /// An OAuth2 refresh token.
    pub identity_token: String,
    /// A token that is sent to the registry as it is.
    pub registry_token: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// What an [`Auth`] comes to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nobody's.
    Anonymous,
    /// For Basic authentication, and for the token server.
    Basic {
        /// User name.
        username: String,
        /// Its password.
        password: String,
    },
    /// A refresh token for the token server.
    Identity(String),
    /// A token for the registry itself.
    Bearer(String),
}

/// Taken with or without its padding: both forms are in use.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Auth {
    /// Returns the credentials that the fields come to: tokens before passwords,
    /// because clients that have a token often set a made-up user name with it.
    ///
    /// # Errors
    /// Says what is wrong with `auth`.
    pub(crate) fn credentials(&self) -> Result<Credentials, &'static str> {
        if !self.registry_token.is_empty() {
            return Ok(Credentials::Bearer(self.registry_token.clone()));
        }
        if !self.identity_token.is_empty() {
            return Ok(Credentials::Identity(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Ok(Credentials::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        if self.auth.is_empty() {
            return Ok(Credentials::Anonymous);
        }
        decode_auth(&self.auth)
    }

    /// Tells whether the credentials are meant for the registry `host`
    /// (`host[:port]`): they name it, or name none.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        self.names_no_server() || server_host(&self.server_address) == canonical_host(host)
    }

    /// Tells whether the credentials name no registry.
    pub(crate) fn names_no_server(&self) -> bool {
        self.server_address.trim().is_empty()
    }
}

fn decode_auth(auth: &str) -> Result<Credentials, &'static str> {
    let bytes = BASE64.decode(auth.trim()).map_err(|_| "auth is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "auth is not text")?;
    let (username, password) = text.split_once(':').ok_or("auth has no colon")?;
    // Some writers of configurations pad with NUL.
    let password = password.trim_end_matches('\0');
    Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() })
}

/// Returns the host of a server's address, which may be a host, or a URL such as
/// `https://index.docker.io/v1/`.
fn server_host(address: &str) -> String {
    let address = address.trim();
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    canonical_host(rest.split('/').next().unwrap_or_default())
}

/// Docker Hub goes by three names.
fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credentials {
        Credentials::Basic { username: username.into(), password: password.into() }
    }

    #[test]
    fn fields_come_to_credentials() {
        let auth = |auth: &str| Auth { auth: auth.into(), ..Auth::default() };
        let cases = [
            (Auth::default(), Ok(Credentials::Anonymous)),
            (
                Auth { username: "u".into(), password: "p:q".into(), ..Auth::default() },
                Ok(basic("u", "p:q")),
            ),
            (auth("dTpw"), Ok(basic("u", "p"))),
            (auth("dTpwOnE="), Ok(basic("u", "p:q"))),
            (auth("dTpwOnE"), Ok(basic("u", "p:q"))),
            (auth("dTpwAAA="), Ok(basic("u", "p"))),
            (auth("dTo="), Ok(basic("u", ""))),
            (auth("dQ=="), Err("auth has no colon")),
            (auth("!"), Err("auth is not base64")),
            (auth("//86//8="), Err("auth is not text")),
            (
                Auth { username: "<token>".into(), identity_token: "i".into(), ..Auth::default() },
                Ok(Credentials::Identity("i".into())),
            ),
            (
                Auth { registry_token: "r".into(), auth: "dTpw".into(), ..Auth::default() },
                Ok(Credentials::Bearer("r".into())),
            ),
        ];
        for (auth, expected) in cases {
            assert!(auth.credentials() == expected);
        }
    }

    #[test]
    fn a_server_address_limits_the_credentials() {
        for (address, host, expected) in [
            ("", "x.io", true),
            ("x.io", "x.io", true),
            ("https://X.io/v1/", "x.io", true),
            ("x.io:5000", "x.io", false),
            ("http://x.io:5000", "x.io:5000", true),
            ("y.io", "x.io", false),
            ("x.io.evil.example", "x.io", false),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("docker.io", "registry-1.docker.io", true),
        ] {
            let auth = Auth { server_address: address.into(), ..Auth::default() };
            assert_eq!(auth.is_for(host), expected, "{address} {host}");
        }
    }

    #[test]
    fn credentials_are_not_in_the_debug_form() {
        let auth = Auth {
            username: "secret".into(),
            password: "secret".into(),
            auth: "secret".into(),
            server_address: "x.io".into(),
            identity_token: "secret".into(),
            registry_token: "secret".into(),
        };
        assert_eq!(format!("{auth:?}"), "Auth { server_address: \"x.io\", .. }");
    }
}
