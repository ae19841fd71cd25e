//! Where a runtime listens: a unix socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Error;

/// The longest path that `sockaddr_un` holds, without its final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// A unix socket of a runtime.
///
/// It is written `unix:///run/x.sock`, `unix:/run/x.sock` or `/run/x.sock`, and
/// shown in the first form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    path: PathBuf,
}

impl Endpoint {
    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    /// # Errors
    ///
    /// When the text is empty, names another scheme than `unix`, or the path is
    /// not absolute or longer than a socket's path may be.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::EmptyEndpoint);
        }
        let path = match text.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return Err(Error::Scheme { endpoint: text.into(), scheme: scheme.into() });
            }
            _ => text,
        };
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Error::EndpointPath { endpoint: text.into() });
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(Error::EndpointLength { endpoint: text.into(), limit: MAX_SOCKET_PATH });
        }
        Ok(Self { path: PathBuf::from(path) })
    }
}

impl TryFrom<&Path> for Endpoint {
    type Error = Error;

    fn try_from(path: &Path) -> Result<Self, Error> {
        path.to_str()
            .ok_or_else(|| Error::EndpointPath { endpoint: path.to_string_lossy().into_owned() })?
            .parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_forms_mean_the_same_socket() {
        for text in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock", " /run/x.sock\n"] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.path(), Path::new("/run/x.sock"), "{text}");
            assert_eq!(endpoint.to_string(), "unix:///run/x.sock");
        }
        let colon: Endpoint = "/run/a:b.sock".parse().expect("a colon in a path");
        assert_eq!(colon.path(), Path::new("/run/a:b.sock"));
    }

    #[test]
    fn refused_forms_say_why() {
        let long = format!("unix:///{}", "x".repeat(200));
        for (text, why) in [
            ("", "is empty"),
            ("tcp://127.0.0.1:9000", "scheme `tcp`"),
            ("npipe:////./pipe/x", "scheme `npipe`"),
            ("run/x.sock", "absolute path"),
            ("unix://run/x.sock", "absolute path"),
            (long.as_str(), "longer than 107"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
