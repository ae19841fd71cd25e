//! Which images may be used: `policy.json` as CRI-O, podman and skopeo have it
//! (containers-policy.json(5)), with `reject`, `insecureAcceptAnything` and
//! `sigstoreSigned` by keys. What is not known forbids: a policy that is not understood
//! must not be taken for a weaker one. Pure, apart from reading its files.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use types::Digest;

use crate::{
    PullError,
    reference::{Reference, Version},
    signature::{PublicKey, Signature},
};

/// The most bytes of a policy, and of a key.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The transport of images from registries.
const DOCKER: &str = "docker";

/// A policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    path: PathBuf,
    default: Vec<Requirement>,
    /// By transport, by scope.
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// What an image must meet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    SigstoreSigned {
        #[serde(default)]
        key_path: Option<PathBuf>,
        #[serde(default)]
        key_paths: Option<Vec<PathBuf>>,
        #[serde(default)]
        key_data: Option<String>,
        #[serde(default)]
        key_datas: Option<Vec<String>>,
        #[serde(default)]
        signed_identity: Option<Identity>,
    },
}

/// How the name in a signature must fit the name that is pulled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
enum Identity {
    MatchExact {},
    MatchRepoDigestOrExact {},
    MatchRepository {},
    ExactReference {
        docker_reference: String,
    },
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename = "remapIdentity")]
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

impl Policy {
    /// Reads a policy. Where there is no file, everything is allowed.
    ///
    /// # Errors
    /// Fails where the file cannot be used: then nothing is allowed.
    pub fn load(path: &Path) -> Result<Self, PullError> {
        match read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self {
                path: path.to_owned(),
                default: vec![Requirement::InsecureAcceptAnything {}],
                transports: BTreeMap::new(),
            }),
            Err(e) => Err(bad(path, e.to_string())),
        }
    }

    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, PullError> {
        let Raw { default, transports } =
            serde_json::from_slice(text).map_err(|e| bad(path, e.to_string()))?;
        let policy = Self { path: path.to_owned(), default, transports };
        let scopes = policy.transports.values().flat_map(BTreeMap::values);
        if scopes.chain([&policy.default]).any(Vec::is_empty) {
            return Err(bad(path, "a scope has no requirements: write \"reject\"".to_owned()));
        }
        Ok(policy)
    }

    /// Tells whether signatures of an image are needed to judge it.
    pub fn wants_signatures(&self, reference: &Reference) -> bool {
        let signed = |r: &Requirement| matches!(r, Requirement::SigstoreSigned { .. });
        self.requirements(reference).iter().any(signed)
    }

    /// Judges an image of a registry. `digests` are those of its manifest and of the
    /// index that led to it.
    ///
    /// # Errors
    /// Says what is not met.
    pub fn check(
        &self,
        reference: &Reference,
        digests: &[Digest],
        signatures: &[Signature],
    ) -> Result<(), PullError> {
        let all = self.requirements(reference);
        all.iter().try_for_each(|one| one.check(reference, digests, signatures)).map_err(|reason| {
            PullError::Denied {
                reference: reference.to_string(),
                policy: self.path.clone(),
                reason: crate::error::one_line(&reason),
            }
        })
    }

    /// Judges an image that an archive brings.
    ///
    /// # Errors
    /// Fails where such images are not to be used.
    pub fn check_loaded(&self, name: &str) -> Result<(), PullError> {
        let transport = ["oci-archive", "docker-archive", "oci"].iter();
        let scope = transport.filter_map(|t| self.transports.get(*t)?.get("")).next();
        let accepted = scope
            .unwrap_or(&self.default)
            .iter()
            .all(|one| matches!(one, Requirement::InsecureAcceptAnything {}));
        if accepted {
            return Ok(());
        }
        Err(PullError::Denied {
            reference: name.to_owned(),
            policy: self.path.clone(),
            reason: "images of archives are not accepted".to_owned(),
        })
    }

    /// The requirements of the narrowest scope that the name is in.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let Some(scopes) = self.transports.get(DOCKER) else { return &self.default };
        let found = scopes_of(reference).into_iter().find_map(|scope| scopes.get(&scope));
        found.or_else(|| scopes.get("")).unwrap_or(&self.default)
    }
}

/// The scopes that a name is in, the narrowest first.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.to_string()];
    let mut name = reference.repository();
    loop {
        scopes.push(name.clone());
        match name.rfind('/') {
            Some(slash) => name.truncate(slash),
            None => break,
        }
    }
    let mut host = reference.domain().split(':').next().unwrap_or_default();
    while let Some((_, parent)) = host.split_once('.') {
        scopes.push(format!("*.{parent}"));
        host = parent;
    }
    scopes
}

impl Requirement {
    fn check(
        &self,
        reference: &Reference,
        digests: &[Digest],
        signatures: &[Signature],
    ) -> Result<(), String> {
        match self {
            Self::InsecureAcceptAnything {} => Ok(()),
            Self::Reject {} => Err("the policy rejects it".to_owned()),
            Self::SigstoreSigned { signed_identity, .. } => {
                let keys = self.keys()?;
                if signatures.is_empty() {
                    return Err("it has no signature, and the policy wants one".to_owned());
                }
                let usual = Identity::MatchRepoDigestOrExact {};
                let identity = signed_identity.as_ref().unwrap_or(&usual);
                let mut why = String::new();
                for signature in signatures {
                    match accepts(signature, &keys, identity, reference, digests) {
                        Ok(()) => return Ok(()),
                        Err(reason) => why = reason,
                    }
                }
                Err(format!("none of its {} signatures is accepted: {why}", signatures.len()))
            }
        }
    }

    fn keys(&self) -> Result<Vec<PublicKey>, String> {
        let Self::SigstoreSigned { key_path, key_paths, key_data, key_datas, .. } = self else {
            return Ok(Vec::new());
        };
        let mut keys = Vec::new();
        for path in key_path.iter().chain(key_paths.iter().flatten()) {
            let pem = read(path)
                .map_err(|e| format!("the key {} cannot be read: {e}", path.display()))?;
            keys.extend(
                PublicKey::of_pem(&pem).map_err(|e| format!("the key {}: {e}", path.display()))?,
            );
        }
        for data in key_data.iter().chain(key_datas.iter().flatten()) {
            use base64::Engine as _;
            let pem = base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map_err(|_| "its key is not base64".to_owned())?;
            keys.extend(PublicKey::of_pem(&pem)?);
        }
        if keys.is_empty() { Err("the policy names no key".to_owned()) } else { Ok(keys) }
    }
}

fn accepts(
    signature: &Signature,
    keys: &[PublicKey],
    identity: &Identity,
    reference: &Reference,
    digests: &[Digest],
) -> Result<(), String> {
    if !keys.iter().any(|key| signature.is_by(key)) {
        return Err("no key of the policy has made it".to_owned());
    }
    // Only now is a word of it believed.
    let claim = signature.claim()?;
    if !digests.contains(&claim.digest) {
        return Err(format!("it is for {}, not for {}", claim.digest, shown(digests)));
    }
    if identity.fits(reference, &claim.reference) {
        return Ok(());
    }
    Err(format!("it is for \"{}\"", claim.reference))
}

fn shown(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

impl Identity {
    /// Tells whether a signature for the name `signed` is one for `reference`.
    fn fits(&self, reference: &Reference, signed: &str) -> bool {
        let Ok(of_signature) = signed.parse::<Reference>() else { return false };
        let same_repository = |other: &Reference| other.repository() == of_signature.repository();
        // A signature may be for a repository as a whole; then it is for no tag of it.
        let exact = |other: &Reference| has_version(signed) && *other == of_signature;
        let digest_or_exact = |other: &Reference| match other.version() {
            Version::Digest(_) => same_repository(other),
            Version::Tag(_) => exact(other),
        };
        let parsed = |text: &String| text.parse::<Reference>().ok();
        match self {
            Self::MatchExact {} => exact(reference),
            Self::MatchRepoDigestOrExact {} => digest_or_exact(reference),
            Self::MatchRepository {} => same_repository(reference),
            Self::ExactReference { docker_reference } => {
                has_version(docker_reference) && parsed(docker_reference).is_some_and(|r| exact(&r))
            }
            Self::ExactRepository { docker_repository } => {
                parsed(docker_repository).is_some_and(|r| same_repository(&r))
            }
            Self::Remap { prefix, signed_prefix } => {
                let name = reference.to_string();
                let rest = name.strip_prefix(prefix.as_str());
                let inside =
                    rest.filter(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
                let moved = inside.map_or(name.clone(), |rest| format!("{signed_prefix}{rest}"));
                parsed(&moved).is_some_and(|r| digest_or_exact(&r))
            }
        }
    }
}

fn has_version(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.contains([':', '@'])
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    fs::read(path)
}

fn bad(path: &Path, reason: String) -> PullError {
    PullError::Denied {
        reference: "every image".to_owned(),
        policy: path.to_owned(),
        reason: format!("the policy cannot be used: {}", crate::error::one_line(&reason)),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
