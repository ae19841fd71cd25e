//! Licences, bans and sources of what we depend on, by `deny.toml`.
//!
//! The file is cargo-deny's, so that program can be run on it too; see
//! docs/decisions for why it is not what the pipeline runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

use crate::metadata::{Metadata, Package};

const FILE: &str = "deny.toml";

/// The part of cargo-deny's file that is checked here.
#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Fails with a line for each package that is against the policy.
pub fn check() -> Result<()> {
    let text = fs::read_to_string(FILE).with_context(|| format!("failed to read {FILE}"))?;
    let policy: Policy = toml::from_str(&text).with_context(|| format!("{FILE} is not valid"))?;
    let metadata = Metadata::load()?;
    let mut wrong: Vec<String> =
        metadata.foreign().flat_map(|package| policy.objections(package)).collect();
    wrong.extend(metadata.own().filter_map(lacks_licence));
    wrong.sort();
    println!("{} packages of others", metadata.foreign().count());
    print_duplicates(&metadata);
    if !wrong.is_empty() {
        bail!("{} packages are against {FILE}\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}

impl Policy {
    fn objections(&self, package: &Package) -> Vec<String> {
        let mut objections = Vec::new();
        let mut object = |why: String| {
            objections.push(format!("{} {}: {why}", package.name, package.version));
        };
        if let Some(why) = self.licence_objection(package) {
            object(why);
        }
        if let Some(ban) = self.bans.deny.iter().find(|ban| ban.name == package.name) {
            object(format!("it is banned: {}", ban.reason));
        }
        let source = package.source.as_deref().unwrap_or_default();
        let registry = source.strip_prefix("registry+").unwrap_or(source);
        if !self.sources.allow_registry.iter().any(|allowed| allowed == registry) {
            object(format!("it comes from {source}"));
        }
        objections
    }

    fn licence_objection(&self, package: &Package) -> Option<String> {
        let Some(text) = &package.license else {
            return Some("it states no licence".to_owned());
        };
        match Expression::parse_mode(text, ParseMode::LAX) {
            Ok(expression) if expression.evaluate(|licence| self.allows(licence)) => None,
            Ok(_) => Some(format!("its licence is {text}")),
            Err(error) => Some(format!("its licence cannot be read: {}", error.reason)),
        }
    }

    fn allows(&self, licence: &LicenseReq) -> bool {
        let text = licence.to_string();
        self.licenses.allow.contains(&text)
    }
}

fn lacks_licence(package: &Package) -> Option<String> {
    let file = Path::new(&package.manifest_path).display();
    (package.license.is_none()).then(|| format!("{} states no licence in {file}", package.name))
}

/// Two versions of a package are a cost, not a fault: they are shown.
fn print_duplicates(metadata: &Metadata) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata.foreign() {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        println!("in more than one version: {name} {}", versions.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_judged() {
        let policy: Policy = toml::from_str(
            r#"
            [licenses]
            allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            [bans]
            deny = [{ crate = "bad", reason = "test" }]
            [sources]
            allow-registry = ["https://index"]
            "#,
        )
        .expect("valid");
        let judge = |name: &str, licence: Option<&str>, source: &str| {
            let package = Package {
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                source: Some(source.to_owned()),
                license: licence.map(str::to_owned),
                manifest_path: "Cargo.toml".into(),
                dependencies: Vec::new(),
                targets: Vec::new(),
            };
            policy.objections(&package).len()
        };
        let index = "registry+https://index";
        for (name, licence, source, expected) in [
            ("good", Some("MIT"), index, 0),
            ("good", Some("MIT/GPL-3.0"), index, 0),
            ("good", Some("GPL-2.0-only OR (MIT AND Apache-2.0)"), index, 0),
            ("good", Some("Apache-2.0 WITH LLVM-exception"), index, 0),
            ("good", Some("MIT AND GPL-3.0-only"), index, 1),
            ("good", Some("nonsense"), index, 1),
            ("good", None, index, 1),
            ("bad", Some("MIT"), index, 1),
            ("good", Some("MIT"), "git+https://x", 1),
            ("bad", None, "git+https://x", 3),
        ] {
            assert_eq!(judge(name, licence, source), expected, "{name} {licence:?} {source}");
        }
    }
}
