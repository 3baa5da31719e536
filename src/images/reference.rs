//! How an image of a registry is named.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_client::Reference;

use super::digest::Digest;
use super::error::ImageError;
use crate::image::{BaseRef, Format};

/// A reference of an image, and the format that its caller says it has: that of its disk is never
/// guessed.
///
/// It is written as docker and podman write it, `ghcr.io/acme/python:3.13`, or with the digest of a
/// manifest, `ghcr.io/acme/python@sha256:…`, which then is the only image that it means.
///
/// # Example
///
/// ```
/// use overlay_pool::images::ImageRef;
///
/// let image: ImageRef = "ghcr.io/acme/python:3.13".parse()?;
/// assert_eq!(image.link().to_str(), Some("ghcr.io/acme/python/3.13.qcow2"));
/// # Ok::<_, overlay_pool::images::ImageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    pub(super) reference: Reference,
    pub(super) digest: Option<Digest>,
    /// What its disk is said to be.
    pub format: Format,
}

impl ImageRef {
    /// The same, said to be a raw image.
    #[must_use]
    pub fn raw(self) -> Self {
        Self { format: Format::Raw, ..self }
    }

    /// The registry that it names.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// Where its link lies in a store: a directory for the registry and for each part of the
    /// repository, and in it the tag, or else the digest, with the format.
    #[must_use]
    pub fn link(&self) -> PathBuf {
        let tag = self.reference.tag().map(str::to_owned);
        let name = match (self.digest, tag) {
            (Some(digest), _) => format!("sha256-{}", digest.hex()),
            (None, tag) => tag.unwrap_or_else(|| "latest".to_owned()),
        };
        let suffix = suffix(self.format);
        Path::new(self.registry())
            .join(self.reference.repository())
            .join(format!("{name}.{suffix}"))
    }

    /// The reference whose link this is; none if it is no reference's.
    pub(super) fn of_link(link: &Path) -> Option<Self> {
        let text = link.to_str()?;
        let (text, format) = [Format::Qcow2, Format::Raw].into_iter().find_map(|format| {
            Some((text.strip_suffix(suffix(format))?.strip_suffix('.')?, format))
        })?;
        let (repository, name) = text.rsplit_once('/')?;
        let reference = match name.strip_prefix("sha256-").and_then(Digest::from_hex) {
            Some(digest) => format!("{repository}@{digest}"),
            None => format!("{repository}:{name}"),
        };
        let found = Self { format, ..reference.parse().ok()? };
        (found.link() == link).then_some(found)
    }

    /// The base image that its link in a store names.
    pub(super) fn base(&self, path: PathBuf) -> BaseRef {
        BaseRef { path, format: self.format }
    }

    /// The same image, at a mirror: a host, and perhaps a path below which the repositories are.
    pub(super) fn at(&self, mirror: &str) -> Result<Self, ImageError> {
        let text = self.to_string();
        let rest = text.strip_prefix(self.registry()).unwrap_or(&text);
        let mirrored: Self = format!("{}{rest}", mirror.trim_end_matches('/')).parse()?;
        Ok(Self { format: self.format, ..mirrored })
    }
}

fn suffix(format: Format) -> &'static str {
    match format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    }
}

impl FromStr for ImageRef {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let refused = |why: String| ImageError::Reference { text: text.to_owned(), why };
        let reference: Reference = text.parse().map_err(|error| refused(format!("{error}")))?;
        let digest = reference.digest().map(str::parse).transpose();
        let digest = digest.map_err(|error: super::DigestError| refused(error.to_string()))?;
        // One that isn't a registry by its looks is docker.io's, which few mean here.
        let has_registry = text.starts_with(&format!("{}/", reference.registry()));
        if !has_registry {
            let why = format!("it names no registry; is {reference} meant?");
            return Err(refused(why));
        }
        Ok(Self { reference, digest, format: Format::Qcow2 })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reference, f)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rstest::rstest;

    use super::ImageRef;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case("ghcr.io/acme/python:3.13", "ghcr.io/acme/python/3.13.qcow2")]
    #[case("ghcr.io/acme/python", "ghcr.io/acme/python/latest.qcow2")]
    #[case("localhost:5000/a/b/c:v1.0_x", "localhost:5000/a/b/c/v1.0_x.qcow2")]
    fn a_link_is_that_of_its_reference_alone(#[case] text: &str, #[case] link: &str) {
        let image: ImageRef = text.parse().expect("a reference");
        assert_eq!(image.link(), Path::new(link));
        assert_eq!(ImageRef::of_link(Path::new(link)).expect("a link").link(), image.link());
        let raw = image.raw();
        assert_eq!(ImageRef::of_link(&raw.link()).expect("a link").link(), raw.link());
    }

    #[rstest]
    fn with_a_digest_the_tag_says_nothing() {
        let image: ImageRef = format!("ghcr.io/a:1@sha256:{HEX}").parse().expect("a reference");
        assert_eq!(image.link(), Path::new(&format!("ghcr.io/a/sha256-{HEX}.qcow2")));
        assert!(ImageRef::of_link(&image.link()).expect("a link").digest.is_some());
    }

    #[rstest]
    fn a_mirror_takes_the_place_of_the_registry() {
        let image: ImageRef = "ghcr.io/acme/python:3.13".parse().expect("a reference");
        let mirrored = image.at("mirror.example.com:5000/hub/").expect("a reference");
        assert_eq!(mirrored.to_string(), "mirror.example.com:5000/hub/acme/python:3.13");
    }

    #[rstest]
    #[case::empty("")]
    #[case::no_registry("python:3.13")]
    #[case::path("../../etc/passwd")]
    #[case::dots("ghcr.io/../../etc:x")]
    #[case::upper_case("ghcr.io/Acme:x")]
    #[case::tag("ghcr.io/a:../x")]
    #[case::another_algorithm("ghcr.io/a@sha512:00000000000000000000000000000000")]
    fn what_is_no_reference_is_refused(#[case] text: &str) {
        assert!(text.parse::<ImageRef>().is_err());
    }
}
