//! For which machine an image is. Pure, apart from asking which machine this is.

use std::{env::consts::ARCH, fmt};

use serde::Deserialize;

/// A platform as an index names it (OCI image specification, `image-index.md`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Named {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `v8`, or empty.
    #[serde(default)]
    pub variant: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// What runs here: architectures with their variants, the best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    architecture: String,
    runs: Vec<(String, String)>,
}

impl Platform {
    /// Returns this machine's platform.
    pub fn host() -> Self {
        match ARCH {
            "x86_64" => {
                let mut platform = Self::of("amd64", x86_variants());
                // The kernel runs 32-bit programs too.
                platform.runs.push(("386".into(), String::new()));
                platform
            }
            "aarch64" => Self::of("arm64", &["v8"]),
            "arm" => Self::of("arm", &["v7", "v6", "v5"]),
            "x86" => Self::of("386", &[""]),
            "loongarch64" => Self::of("loong64", &[""]),
            "powerpc64" if cfg!(target_endian = "little") => Self::of("ppc64le", &[""]),
            other => Self::of(other, &[""]),
        }
    }

    /// Returns the platform of an architecture and its variants, the best first.
    pub fn of(architecture: &str, variants: &[&str]) -> Self {
        let runs = variants.iter().map(|v| (architecture.to_owned(), (*v).to_owned())).collect();
        Self { architecture: architecture.to_owned(), runs }
    }

    /// Returns how well an image for `named` fits: 0 is best, `None` not at all.
    pub(crate) fn rank(&self, named: &Named) -> Option<usize> {
        if named.os != "linux" {
            return None;
        }
        let (architecture, variant) = normalise(&named.architecture, &named.variant);
        self.runs.iter().position(|(a, v)| *a == architecture && *v == variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)
    }
}

/// Gives an architecture its usual name, and a variant that is left out its meaning.
fn normalise<'a>(architecture: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    let architecture = match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    };
    let variant = match (architecture, variant) {
        ("amd64", "") => "v1",
        ("arm64", "" | "8") => "v8",
        ("arm", "" | "7") => "v7",
        (_, other) => other,
    };
    (architecture, variant)
}

/// The levels of the x86-64 psABI that this processor has, the highest first.
#[cfg(target_arch = "x86_64")]
fn x86_variants() -> &'static [&'static str] {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2")
        && has!("popcnt")
        && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    match (v2, v3) {
        (_, true) => &["v3", "v2", "v1"],
        (true, false) => &["v2", "v1"],
        (false, false) => &["v1"],
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_variants() -> &'static [&'static str] {
    &["v1"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(os: &str, architecture: &str, variant: &str) -> Named {
        Named { os: os.into(), architecture: architecture.into(), variant: variant.into() }
    }

    #[test]
    fn platforms_are_ranked() {
        let amd64 = Platform::of("amd64", &["v2", "v1"]);
        assert_eq!(amd64.rank(&named("linux", "amd64", "v2")), Some(0));
        assert_eq!(amd64.rank(&named("linux", "amd64", "")), Some(1));
        assert_eq!(amd64.rank(&named("linux", "x86_64", "v1")), Some(1));
        assert_eq!(amd64.rank(&named("linux", "amd64", "v3")), None);
        assert_eq!(amd64.rank(&named("linux", "arm64", "")), None);
        assert_eq!(amd64.rank(&named("windows", "amd64", "")), None);
        assert_eq!(amd64.rank(&named("unknown", "unknown", "")), None);
        let arm64 = Platform::of("arm64", &["v8"]);
        assert_eq!(arm64.rank(&named("linux", "arm64", "")), Some(0));
        assert_eq!(arm64.rank(&named("linux", "arm64", "v8")), Some(0));
        let arm = Platform::of("arm", &["v7", "v6"]);
        assert_eq!(arm.rank(&named("linux", "arm", "")), Some(0));
        assert_eq!(arm.rank(&named("linux", "arm", "v6")), Some(1));
    }

    #[test]
    fn this_machine_runs_its_own_images() {
        let host = Platform::host();
        let architecture = host.architecture.clone();
        assert!(host.rank(&named("linux", &architecture, "")).is_some());
    }
}
