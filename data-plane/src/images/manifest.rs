//! Manifests: of one image its configuration and layers, of one that is for several kinds of machines the image of each.

use serde::Deserialize;

use super::{Digest, ImageError};

/// What a registry is asked for.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Layers of one image at most.
const LAYERS_MAX: usize = 512;

/// Something that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

/// What a manifest turned out to be.
pub(super) enum Found {
    Image(Manifest),
    /// The manifest of this image of several.
    Leads(Digest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// This machine's kind, as images name it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Reads a manifest.
pub(super) fn read(bytes: &[u8]) -> Result<Found, ImageError> {
    let damaged = |why: String| ImageError::Damaged(format!("the image's manifest cannot be read: {why}"));
    let whole: Whole = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let blob = |descriptor: Descriptor| {
        let digest = descriptor
            .digest
            .parse()
            .map_err(|_| damaged(format!("`{}`", descriptor.digest)))?;
        Ok(Blob {
            digest,
            size: descriptor.size,
            media_type: descriptor.media_type,
        })
    };
    match (whole.manifests, whole.config, whole.layers) {
        (Some(manifests), ..) => choose(manifests).and_then(blob).map(|blob| Found::Leads(blob.digest)),
        (None, Some(config), Some(layers)) if layers.len() <= LAYERS_MAX => Ok(Found::Image(Manifest {
            config: blob(config)?,
            layers: layers.into_iter().map(blob).collect::<Result<_, _>>()?,
        })),
        _ => Err(damaged(
            "it is neither an image nor a list of images of a kind that is known".to_owned(),
        )),
    }
}

/// The image for this machine.
fn choose(manifests: Vec<Descriptor>) -> Result<Descriptor, ImageError> {
    let kind = |one: &Descriptor| {
        let platform = one.platform.as_ref();
        platform.map(|platform| format!("{}/{}", platform.os, platform.architecture))
    };
    let mine = format!("linux/{}", architecture());
    let kinds: Vec<String> = manifests.iter().filter_map(kind).collect();
    let only = manifests.len() == 1;
    let mut fitting = manifests
        .into_iter()
        .filter(|one| kind(one).map_or(only, |kind| kind == mine));
    fitting.next().ok_or_else(|| {
        ImageError::Unfit(format!(
            "the image is for {}, and this machine is {mine}: build it for that",
            kinds.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_images_that_for_this_machine_is_chosen() {
        let one = |os: &str, architecture: &str, content: &str| {
            serde_json::json!({ "digest": Digest::of(content.as_bytes()).as_str(), "size": 1,
                "platform": { "os": os, "architecture": architecture } })
        };
        let list = |items: &[serde_json::Value]| serde_json::json!({ "manifests": items }).to_string();
        let all = list(&[
            one("windows", architecture(), "w"),
            one("linux", "z80", "z"),
            one("linux", architecture(), "mine"),
            one("unknown", "unknown", "attestation"),
        ]);
        assert!(matches!(read(all.as_bytes()), Ok(Found::Leads(digest)) if digest == Digest::of(b"mine")));
        let others = list(&[one("linux", "z80", "z")]);
        let Err(error) = read(others.as_bytes()) else {
            panic!("it is for another machine");
        };
        assert!(error.to_string().contains("is for linux/z80"), "{error}");
        assert!(read(b"{}").is_err());
        assert!(read(b"no json").is_err());
        assert!(read(br#"{"config":{"digest":"sha256:../../x"},"layers":[]}"#).is_err());
    }
}
