//! Names of entries: from bytes of the stream to components that are safe to use.

use crate::{Limits, UnpackError};

/// What the names of whiteouts begin with.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// The longest component (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// How much of a name is shown in an error.
const SHOWN: usize = 200;

/// Returns a name as it can be logged.
pub(crate) fn shown(name: &[u8]) -> String {
    name[..name.len().min(SHOWN)].escape_ascii().to_string()
}

/// Returns the components of an entry's name. Leading slashes and `.` mean nothing;
/// the root has no components.
pub(crate) fn components<'a>(
    name: &'a [u8],
    entry: u64,
    limits: &Limits,
) -> Result<Vec<&'a [u8]>, UnpackError> {
    let bad = |reason| UnpackError::Entry { entry, path: shown(name), reason };
    if name.is_empty() {
        return Err(bad("it has no name"));
    }
    if name.len() > limits.max_path {
        return Err(bad("its name is too long"));
    }
    let components: Vec<&[u8]> =
        name.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    for part in &components {
        if *part == b".." {
            return Err(bad("its name has a part \"..\""));
        }
        if part.len() > MAX_COMPONENT {
            return Err(bad("its name has a part longer than 255 bytes"));
        }
        if part.contains(&0) {
            return Err(bad("its name has a NUL byte"));
        }
    }
    if components.len() > limits.max_depth {
        return Err(bad("it lies too deep"));
    }
    let above = components.split_last().map_or(&[][..], |(_, above)| above);
    if above.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err(bad("it lies below a whiteout"));
    }
    Ok(components)
}

/// What the last component of an entry's name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// Itself.
    Plain,
    /// That the directory hides what lower layers have in it.
    Opaque,
    /// That this name is hidden.
    Whiteout(&'a [u8]),
    /// Nothing: what AUFS kept for itself.
    Aufs,
    /// Nothing good.
    Bad,
}

/// Reads the last component of an entry's name (OCI image specification, layer.md).
pub(crate) fn meaning(name: &[u8]) -> Meaning<'_> {
    match name.strip_prefix(WHITEOUT) {
        None => Meaning::Plain,
        Some(b".wh..opq") => Meaning::Opaque,
        Some(b"" | b"." | b"..") => Meaning::Bad,
        Some(rest) if rest.starts_with(WHITEOUT) => Meaning::Aufs,
        Some(rest) => Meaning::Whiteout(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let limits = Limits { max_depth: 3, ..Limits::default() };
        let take = |name: &[u8]| components(name, 1, &limits).ok().map(|parts| parts.join(&b'/'));
        for (name, parts) in [
            (&b"./a/b/"[..], Some(&b"a/b"[..])),
            (b"/etc//passwd", Some(b"etc/passwd")),
            (b".", Some(b"")),
            (b"/", Some(b"")),
            (b"", None),
            (b"../a", None),
            (b"a/../b", None),
            (b"a/..", None),
            (b"a\0b", None),
            (b"1/2/3/4", None),
            (b".wh.a/b", None),
        ] {
            assert_eq!(take(name).as_deref(), parts, "{}", shown(name));
        }
        assert!(take(&[b'a'; 256]).is_none());
        assert!(take(&b"a/".repeat(3000)).is_none());
    }

    #[test]
    fn whiteouts_are_told() {
        for (name, meant) in [
            (&b"a"[..], Meaning::Plain),
            (b"a.wh.", Meaning::Plain),
            (b".wh", Meaning::Plain),
            (b".wh.a", Meaning::Whiteout(b"a")),
            (b".wh..a", Meaning::Whiteout(b".a")),
            (b".wh..wh..opq", Meaning::Opaque),
            (b".wh..wh.plnk", Meaning::Aufs),
            (b".wh.", Meaning::Bad),
            (b".wh..", Meaning::Bad),
            (b".wh...", Meaning::Bad),
        ] {
            assert_eq!(meaning(name), meant, "{}", shown(name));
        }
    }
}
