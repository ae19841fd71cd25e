//! Names of images, in the grammar and with the defaults that Docker gave them
//! (distribution's `reference` package): `busybox` is
//! `docker.io/library/busybox:latest`. Pure.

use std::{fmt, str::FromStr};

use types::Digest;

/// The most bytes of a name (the host included, tag and digest not).
const MAX_NAME_BYTES: usize = 255;
/// The most bytes of a tag.
const MAX_TAG_BYTES: usize = 128;
/// The most characters of a bad name that an error repeats.
const MAX_QUOTED_CHARS: usize = 300;
/// The registry that is meant where a name has none.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An old name of it.
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
/// The namespace that is meant there where a name has none.
const DEFAULT_NAMESPACE: &str = "library/";
/// The tag that is meant where there is neither a tag nor a digest.
const DEFAULT_TAG: &str = "latest";

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name \"{text}\": {reason}")]
pub struct InvalidReference {
    /// The text, cut and escaped.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// An image's name, normalised: a repository and either a tag or a digest.
///
/// A tag beside a digest is checked and dropped: the digest decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// What a tag points to.
    Tag(String),
    /// The one with this manifest.
    Digest(Digest),
}

impl Reference {
    /// Returns the registry's host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository's path in the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the repository: host and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the tag or the digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Returns the name by digest of an image of this repository.
    pub fn at_digest(&self, digest: Digest) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference {
            text: text.escape_default().take(MAX_QUOTED_CHARS).collect(),
            reason,
        })
    }
}

/// Tells whether a name says no registry.
pub(crate) fn is_short(text: &str) -> bool {
    let name = text.split('@').next().unwrap_or_default();
    !name.contains('/')
        || split_domain(name).0 == DEFAULT_DOMAIN && !name.starts_with(DEFAULT_DOMAIN)
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an image's id, not a name");
    }
    let (rest, digest) = split_digest(text)?;
    let (name, tag) = split_tag(rest)?;
    let (domain, path) = split_domain(name);
    check_domain(domain)?;
    let domain = if domain == LEGACY_DEFAULT_DOMAIN { DEFAULT_DOMAIN } else { domain };
    check_path(path)?;
    let namespace =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { DEFAULT_NAMESPACE } else { "" };
    let path = format!("{namespace}{path}");
    if domain.len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err("its repository is longer than 255 bytes");
    }
    let version = match (digest, tag) {
        (Some(digest), _) => Version::Digest(digest),
        (None, Some(tag)) => Version::Tag(tag.to_owned()),
        (None, None) => Version::Tag(DEFAULT_TAG.to_owned()),
    };
    Ok(Reference { domain: domain.to_owned(), path, version })
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), &'static str> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|_| "its digest is not a sha256 digest")?;
            Ok((rest, Some(digest)))
        }
    }
}

/// A colon after the last slash starts the tag; one before it is a port's.
fn split_tag(rest: &str) -> Result<(&str, Option<&str>), &'static str> {
    let path_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = rest[path_start..].find(':') else { return Ok((rest, None)) };
    let (name, tag) = (&rest[..path_start + colon], &rest[path_start + colon + 1..]);
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    let good = bytes.first().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'-'));
    if !good {
        return Err("its tag is malformed");
    }
    if tag.len() > MAX_TAG_BYTES {
        return Err("its tag is longer than 128 bytes");
    }
    Ok((name, Some(tag)))
}

/// What stands before the first slash is a host if it cannot be a part of a path.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.strip_prefix('[').and_then(|d| d.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("its host is malformed");
            }
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return Err("its host is malformed"),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    if let Some(port) = port
        && (!port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return Err("its port is not a number of up to 65535");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err("its host is malformed");
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its repository must be lower case");
    }
    if path.split('/').all(is_path_component) { Ok(()) } else { Err("its repository is malformed") }
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !(bytes.first().is_some_and(word) && bytes.last().is_some_and(word)) {
        return false;
    }
    bytes
        .split(word)
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|&b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_normalised() {
        for (text, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("library/busybox", "docker.io/library/busybox:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/me/app:x", "docker.io/me/app:x"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/a:x", "[::1]:5000/a:x"),
            ("[2001:db8::1]/a", "[2001:db8::1]/a:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("Reg.Example/app", "Reg.Example/app:latest"),
            ("LOCAL/app", "LOCAL/app:latest"),
            ("x.io/a__b/c-d--e.f_g:T_.-1", "x.io/a__b/c-d--e.f_g:T_.-1"),
            ("sha256:abcd", "docker.io/library/sha256:abcd"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), expected, "{text}");
        }
        for name in ["busybox", "busybox:1.36", "busybox:latest"] {
            let reference: Reference = format!("{name}@{D}").parse().unwrap();
            assert_eq!(reference.to_string(), format!("docker.io/library/busybox@{D}"));
        }
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "b".repeat(129));
        let hex = "a".repeat(64);
        for text in [
            "",
            " ",
            ":tag",
            "a:",
            "a:-x",
            "a:b:c",
            "a@",
            "a@sha256:12",
            &format!("a@sha512:{}", "0".repeat(128)),
            &format!("@{D}"),
            &format!("a@{D}@{D}"),
            "Busybox",
            "x.io/Busybox",
            "a//b",
            "/a",
            "a/",
            "x.io/",
            "../a",
            "x.io/../a",
            "a/..",
            "a..b",
            "a___b",
            "_a",
            "a-",
            "a b",
            "a\n",
            "x.io/a?b",
            "http://x.io/a",
            "x.io:/a:b:c",
            "x.io:port/a",
            "x.io:70000/a",
            "-x.io/a",
            "x..io/a",
            "[::1/a",
            "[zz]:1/a",
            "[::1]x/a",
            "ä/b",
            &long,
            &long_tag,
            &hex,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_is_one_bounded_line() {
        let error = format!("a\n{}", "x".repeat(5000)).parse::<Reference>().unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 400 && !text.contains('\n'), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered(text in ".{0,300}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn a_normal_form_parses_to_itself(
            text in "([a-z]{1,4}(\\.[a-z]{1,3})?(:[0-9]{1,4})?/)?[a-z0-9]{1,5}([._-][a-z]{1,3}){0,2}(/[a-z]{1,4}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,5})?"
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                let normal = reference.to_string();
                prop_assert_eq!(normal.parse::<Reference>().unwrap(), reference);
            }
        }

        #[test]
        fn a_name_cannot_leave_its_place(text in "[a-zA-Z0-9:/@._\\[\\]%-]{1,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert!(!reference.path().split('/').any(|part| part.is_empty() || part == "." || part == ".."));
                prop_assert!(!reference.domain().contains(['/', '@', '%']));
            }
        }
    }
}
