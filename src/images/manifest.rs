//! What a manifest says of an image: untrusted, and bounded.

use serde::Deserialize;

use super::digest::Digest;

/// How many bytes a manifest may have, as registries limit it too.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// How many layers an image may have.
const MAX_LAYERS: usize = 127;
/// How many images an index may list.
const MAX_IMAGES: usize = 256;

/// The media types that are asked for.
pub(super) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Why a manifest describes no disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It isn't one.
    #[error("it isn't understood: {0}")]
    Syntax(#[from] serde_json::Error),
    /// It is of another version.
    #[error("its schema version is {0}, and only 2 is understood")]
    Version(i64),
    /// It has too many parts.
    #[error("{count} {what} are more than the {most} that are understood")]
    TooMany {
        /// `layers` or `images`.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// It describes nothing.
    #[error("it has no layers")]
    Empty,
    /// It has several layers of which none is an archive.
    #[error(
        "it has {0} layers; an image is one layer that is the disk, or layers that are tar archives \
         with the disk below /disk"
    )]
    Layers(usize),
    /// A layer is an archive of a kind that isn't understood.
    #[error(
        "its layer has the media type {0:?}, which isn't understood; push it as tar or tar+gzip"
    )]
    MediaType(String),
    /// An index has no image for this machine.
    #[error("it lists no image for {0}")]
    Platform(&'static str),
    /// None of its layers holds a disk.
    #[error("none of its layers has a file below /disk")]
    NoDisk,
    /// An index lists another index.
    #[error("it lists another index, where an image is expected")]
    Nested,
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Tar,
    TarGzip,
}

/// What a manifest describes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Manifest {
    /// An artifact: the disk itself.
    Disk(Blob),
    /// A container disk: layers, from the lowest to the uppermost.
    Layers(Vec<(Blob, Packing)>),
    /// An index: the manifest of the image for this machine.
    Index(Digest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: i64,
    #[serde(default)]
    layers: Vec<RawLayer>,
    #[serde(default)]
    manifests: Vec<RawImage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Deserialize)]
struct RawImage {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// This machine's architecture, as OCI calls it.
const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        if raw.schema_version != 2 {
            return Err(ManifestError::Version(raw.schema_version));
        }
        let too_many = |what, count, most| Err(ManifestError::TooMany { what, count, most });
        if raw.layers.len() > MAX_LAYERS {
            return too_many("layers", raw.layers.len(), MAX_LAYERS);
        }
        if raw.manifests.len() > MAX_IMAGES {
            return too_many("images", raw.manifests.len(), MAX_IMAGES);
        }
        match (&raw.layers[..], &raw.manifests[..]) {
            ([], []) => Err(ManifestError::Empty),
            ([], images) => of_this_machine(images).map(Self::Index),
            ([layer], _) if packing(&layer.media_type)?.is_none() => Ok(Self::Disk(layer.blob())),
            (layers, _) => {
                let packed = |layer: &RawLayer| {
                    let packing = packing(&layer.media_type)?;
                    let packing = packing.ok_or(ManifestError::Layers(layers.len()))?;
                    Ok((layer.blob(), packing))
                };
                layers.iter().map(packed).collect::<Result<_, _>>().map(Self::Layers)
            }
        }
    }
}

impl RawLayer {
    fn blob(&self) -> Blob {
        Blob { digest: self.digest, size: self.size }
    }
}

/// How layers of a media type are packed; none of one that is no archive.
fn packing(media_type: &str) -> Result<Option<Packing>, ManifestError> {
    // Those of docker and OCI, and those that aren't to be distributed.
    let layer = media_type.strip_prefix("application/vnd.").filter(|rest| {
        rest.starts_with("oci.image.layer.") || rest.starts_with("docker.image.rootfs.")
    });
    match layer {
        None => Ok(None),
        Some(layer) => match layer.rsplit_once(".tar").map(|(_, packed)| packed) {
            Some("") => Ok(Some(Packing::Tar)),
            Some("+gzip" | ".gzip") => Ok(Some(Packing::TarGzip)),
            _ => Err(ManifestError::MediaType(media_type.chars().take(100).collect())),
        },
    }
}

/// The image for this machine; one that stands alone without a platform is for all.
fn of_this_machine(images: &[RawImage]) -> Result<Digest, ManifestError> {
    let fits = |image: &&RawImage| {
        let platform = image.platform.as_ref();
        platform
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == ARCHITECTURE)
    };
    let found = match images {
        [RawImage { digest, platform: None }] => Some(*digest),
        images => images.iter().find(fits).map(|image| image.digest),
    };
    found.ok_or(ManifestError::Platform(ARCHITECTURE))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::{ARCHITECTURE, Blob, Digest, Manifest, ManifestError, Packing};

    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    fn layer(media_type: &str, content: &str) -> Value {
        json!({
            "mediaType": media_type, "digest": Digest::of(content.as_bytes()).to_string(),
            "size": content.len(),
        })
    }

    fn parse(manifest: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(manifest.to_string().as_bytes())
    }

    fn blob(content: &str) -> Blob {
        Blob { digest: Digest::of(content.as_bytes()), size: content.len() as u64 }
    }

    #[rstest]
    #[case("application/vnd.acme.disk")]
    #[case("application/octet-stream")]
    #[case("")]
    fn one_layer_that_is_no_archive_is_the_disk(#[case] media_type: &str) {
        let manifest = json!({ "schemaVersion": 2, "layers": [layer(media_type, "disk")] });
        assert_eq!(parse(&manifest).expect("a manifest"), Manifest::Disk(blob("disk")));
    }

    #[rstest]
    fn layers_that_are_archives_are_a_container_disk() {
        let layers = [layer(TAR, "one"), layer(GZIP, "two")];
        let expected = vec![(blob("one"), Packing::Tar), (blob("two"), Packing::TarGzip)];
        let manifest = json!({ "schemaVersion": 2, "layers": layers });
        assert_eq!(parse(&manifest).expect("a manifest"), Manifest::Layers(expected));
    }

    #[rstest]
    fn an_index_leads_to_the_image_for_this_machine() {
        let image = |architecture: &str, os: &str, content: &str| {
            json!({
                "digest": Digest::of(content.as_bytes()).to_string(),
                "platform": { "architecture": architecture, "os": os },
            })
        };
        let images = [image("m68k", "linux", "1"), image(ARCHITECTURE, "windows", "2")];
        let index = json!({ "schemaVersion": 2, "manifests": images });
        assert!(matches!(parse(&index), Err(ManifestError::Platform(_))));
        let images = [&images[..], &[image(ARCHITECTURE, "linux", "3")]].concat();
        let index = json!({ "schemaVersion": 2, "manifests": images });
        assert_eq!(parse(&index).expect("an index"), Manifest::Index(Digest::of(b"3")));
    }

    #[rstest]
    #[case::empty("", "isn't understood")]
    #[case::no_object("[]", "isn't understood")]
    #[case::no_layers(r#"{"schemaVersion": 2}"#, "no layers")]
    #[case::old(r#"{"schemaVersion": 1}"#, "version is 1")]
    #[case::negative(
        r#"{"schemaVersion": 2, "layers": [{"digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": -1}]}"#,
        "understood",
    )]
    #[case::path(
        r#"{"schemaVersion": 2, "layers": [{"digest": "../../x", "size": 1}]}"#,
        "no digest"
    )]
    fn what_is_no_manifest_is_refused(#[case] text: &str, #[case] why: &str) {
        let error = Manifest::parse(text.as_bytes()).expect_err("no manifest").to_string();
        assert!(error.contains(why), "{error}");
    }

    #[rstest]
    fn what_is_no_image_is_refused() {
        let two = json!({ "schemaVersion": 2, "layers": [layer("a", "1"), layer("b", "2")] });
        assert!(matches!(parse(&two), Err(ManifestError::Layers(2))));
        let zstd = layer("application/vnd.oci.image.layer.v1.tar+zstd", "1");
        let zstd = json!({ "schemaVersion": 2, "layers": [zstd] });
        assert!(matches!(parse(&zstd), Err(ManifestError::MediaType(_))));
        let many = json!({ "schemaVersion": 2, "layers": vec![layer(TAR, "1"); 128] });
        assert!(matches!(parse(&many), Err(ManifestError::TooMany { count: 128, .. })));
    }
}
