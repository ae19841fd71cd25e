//! Which kernel this is.

/// Returns the major and minor version of the kernel that runs; of a release that is not
/// understood, nothing.
pub fn version() -> Option<(u32, u32)> {
    parse(&rustix::system::uname().release().to_string_lossy())
}

/// Of a release such as `6.1.0-18-amd64`.
fn parse(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_a_version() {
        for (release, version) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.15", Some((5, 15))),
            ("6.6-rc1", Some((6, 6))),
            ("4.19.0", Some((4, 19))),
            ("6", None),
            ("x.y", None),
            ("6.", None),
            ("", None),
        ] {
            assert_eq!(parse(release), version, "{release}");
        }
    }

    #[test]
    fn this_kernel_has_a_version() {
        assert!(version() >= Some((5, 10)), "{:?}", version());
    }
}
