//! Signatures as cosign and skopeo attach them: a payload that says which manifest it is
//! for, and under which name; signed by a key. Foreign bytes.

use base64::Engine as _;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use types::Digest;

/// What the payload says of itself. Podman's old tools write another, which is not for
/// these signatures.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// A signature, not believed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signature {
    /// What is signed: JSON.
    pub payload: String,
    /// The signature, in base64.
    pub signature: String,
}

/// What a signature says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The manifest that it is for.
    pub digest: Digest,
    /// The name that it is for.
    pub reference: String,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: RawIdentity,
    image: RawImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct RawIdentity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct RawImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

impl Signature {
    /// Tells whether a key has made it.
    pub fn is_by(&self, key: &PublicKey) -> bool {
        let signature = base64::engine::general_purpose::STANDARD.decode(self.signature.trim());
        signature.is_ok_and(|signature| key.verifies(self.payload.as_bytes(), &signature))
    }

    /// Returns what it says, which is worth as much as the key that made it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn claim(&self) -> Result<Claim, String> {
        let Payload { critical } = serde_json::from_str(&self.payload)
            .map_err(|e| format!("its payload is malformed: {e}"))?;
        if critical.kind != PAYLOAD_TYPE {
            return Err(format!("it is a \"{}\"", critical.kind));
        }
        Ok(Claim { digest: critical.image.digest, reference: critical.identity.reference })
    }
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    kind: Kind,
    key: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

/// The algorithms' identifiers (RFC 5480, 8410, 8017), as their bytes in DER.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const EC_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const EC_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const EDWARDS: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const SEQUENCE: u8 = 0x30;
const IDENTIFIER: u8 = 0x06;
const BIT_STRING: u8 = 0x03;

impl PublicKey {
    /// Reads the public keys of a file.
    ///
    /// # Errors
    /// Fails where there is none, or one of a kind that is not known.
    pub fn of_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let found: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|_| "it is not in PEM".to_owned())?;
        if found.is_empty() {
            return Err("there is no public key in it".to_owned());
        }
        let of_der = |der: &SubjectPublicKeyInfoDer<'_>| {
            Self::of_der(der).ok_or_else(|| "its kind is not known".to_owned())
        };
        found.iter().map(of_der).collect()
    }

    /// `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7).
    fn of_der(der: &[u8]) -> Option<Self> {
        let (info, rest) = element(der, SEQUENCE)?;
        let (algorithm, after) = element(info, SEQUENCE)?;
        let (name, parameters) = element(algorithm, IDENTIFIER)?;
        let (bits, end) = element(after, BIT_STRING)?;
        // The first byte of a bit string says how many bits of the last do not count.
        let (0, key) = (*bits.first()?, bits.get(1..)?) else { return None };
        let kind = match name {
            EC => match element(parameters, IDENTIFIER)?.0 {
                EC_P256 => Kind::P256,
                EC_P384 => Kind::P384,
                _ => return None,
            },
            EDWARDS => Kind::Ed25519,
            RSA => Kind::Rsa,
            _ => return None,
        };
        (rest.is_empty() && end.is_empty()).then(|| Self { kind, key: key.to_vec() })
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
            Kind::P384 => &ECDSA_P384_SHA256_ASN1,
            Kind::Ed25519 => &ED25519,
            Kind::Rsa => &RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.key).verify(message, signature).is_ok()
    }
}

/// Takes an element of a kind from the front of some DER. Returns its content and the rest.
fn element(der: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if !(1..=3).contains(&count) || rest.len() < count {
            return None;
        }
        let (bytes, after) = rest.split_at(count);
        rest = after;
        bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    (tag == kind && length <= rest.len()).then(|| rest.split_at(length))
}
