//! Where signatures are: at the registry, under the tag `sha256-<digits>.sig` of the
//! image's own repository, as cosign and skopeo put them there.

use types::Digest;

use crate::{
    PullError, PullErrorKind,
    layer::{check_digest, digest_of},
    manifest::{self, Document},
    options::ImageLimits,
    registry::{Fetched, Registry, Request},
    signature::Signature,
};

/// The most signatures of one manifest that are looked at.
const MAX_SIGNATURES: usize = 64;
/// The most bytes of a signature's payload.
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Gets the signatures of the manifests.
///
/// # Errors
/// Fails where the registry does. That there are none is fine.
pub(crate) async fn fetch(
    registry: &Registry,
    digests: &[Digest],
    limits: &ImageLimits,
) -> Result<Vec<Signature>, PullError> {
    let mut all = Vec::new();
    for digest in digests {
        all.extend(of_manifest(registry, *digest, limits).await?);
    }
    Ok(all)
}

async fn of_manifest(
    registry: &Registry,
    digest: Digest,
    limits: &ImageLimits,
) -> Result<Vec<Signature>, PullError> {
    let path = format!("manifests/sha256-{}.sig", digest.hex());
    let what = format!("signatures of {digest}");
    let request = Request::new(&path, &what, manifest::ACCEPT);
    let parse =
        |fetched: &Fetched| manifest::parse(&what, &fetched.content_type, &fetched.bytes, limits);
    let manifest = match registry.document(request, limits.max_manifest_bytes, true, parse).await {
        Ok(Document::Manifest(manifest)) => manifest,
        Ok(Document::Index(_)) => return Ok(Vec::new()),
        Err(error) if error.kind() == PullErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut signatures = Vec::new();
    for layer in
        manifest.layers.iter().filter(|l| l.media_type == PAYLOAD_TYPE).take(MAX_SIGNATURES)
    {
        let Some(signature) = layer.annotations.as_ref().and_then(|a| a.get(SIGNATURE)) else {
            continue;
        };
        let (path, what) =
            (format!("blobs/{}", layer.digest), format!("signature {}", layer.digest));
        let request = Request::new(&path, &what, "*/*");
        let check = |fetched: &Fetched| {
            check_digest(what.clone(), layer.digest, digest_of(&fetched.bytes))?;
            Ok(fetched.bytes.clone())
        };
        let payload = registry.document(request, MAX_PAYLOAD_BYTES, false, check).await?;
        let Ok(payload) = String::from_utf8(payload.into()) else { continue };
        signatures.push(Signature { payload, signature: signature.clone() });
    }
    Ok(signatures)
}
