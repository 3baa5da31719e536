//! Which file a Pod means by an image.

use std::path::{Component, Path, PathBuf};

use crate::image::Format;

/// Before the digest in a reference.
const AT: &str = "@sha256:";
/// How many digits such a digest has.
const DIGITS: usize = 64;

/// Why a name is no image's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ImageError {
    #[error(
        "{0:?}: a name below the node's directory of images is wanted, or a reference with a registry"
    )]
    Name(String),
    #[error("{0:?}: a digest has 64 digits of 0 to 9 and a to f")]
    Digest(String),
}

/// Where an image is below the directory of images. `python.qcow2` is there as it is written;
/// `ghcr.io/acme/python@sha256:…` and `ghcr.io/acme/python:3.13` are the links that
/// `overlay-pool images pull` makes. That command understands references by a registry's client, which a
/// driver is built without: so a test holds the two against each other.
pub(super) fn below(image: &str, format: Format) -> Result<PathBuf, ImageError> {
    let shown = || image.chars().take(256).collect::<String>();
    let (repository, name) = if let Some((repository, digest)) = image.split_once(AT) {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digest.len() != DIGITS || !digest.bytes().all(is_digit) {
            return Err(ImageError::Digest(shown()));
        }
        // The digest alone says which it is.
        let repository = tagged(repository).map_or(repository, |(repository, _)| repository);
        (repository, format!("sha256-{digest}"))
    } else if let Some((repository, tag)) = tagged(image) {
        (repository, tag.to_owned())
    } else {
        return plain(image).ok_or_else(|| ImageError::Name(shown()));
    };
    let found = plain(repository).filter(|_| repository.contains('/') && !name.is_empty());
    let found = found.ok_or_else(|| ImageError::Name(shown()))?;
    Ok(found.join(format!("{name}.{format}")))
}

/// A repository and its tag: a colon before a slash is that of a registry's port.
fn tagged(reference: &str) -> Option<(&str, &str)> {
    reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

/// A relative path that leads down.
fn plain(path: &str) -> Option<PathBuf> {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_));
    let is_plain = !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\0')
        && Path::new(path).components().all(is_name);
    is_plain.then(|| Path::new(path).components().collect())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case("python.qcow2", "python.qcow2")]
    #[case("python-3-base-x86_64.img", "python-3-base-x86_64.img")]
    #[case("team/python.qcow2", "team/python.qcow2")]
    #[case("ghcr.io/acme/python:3.13", "ghcr.io/acme/python/3.13.qcow2")]
    #[case("localhost:5000/python:3", "localhost:5000/python/3.qcow2")]
    fn a_name_leads_to_a_file(#[case] image: &str, #[case] file: &str) {
        assert_eq!(below(image, Format::Qcow2), Ok(file.into()));
    }

    #[rstest]
    #[case("ghcr.io/acme/python", "ghcr.io/acme/python")]
    #[case("ghcr.io/acme/python:3.13", "ghcr.io/acme/python")]
    #[case("localhost:5000/python", "localhost:5000/python")]
    fn a_digest_leads_to_its_link(#[case] before: &str, #[case] folder: &str) {
        for format in [Format::Qcow2, Format::Raw] {
            let file = format!("{folder}/sha256-{HEX}.{format}");
            assert_eq!(below(&format!("{before}{AT}{HEX}"), format), Ok(file.into()));
        }
    }

    /// The client of registries takes seconds to be ready, but once.
    #[cfg(feature = "images")]
    #[test]
    fn a_reference_leads_to_its_link_in_the_store() {
        for repository in ["ghcr.io/acme", "localhost:5000/a/b/c", "127.0.0.1:5000/x"] {
            for name in [":3.13", ":v1.0_x-y", "@", ":3.13@"] {
                let name = name.replace('@', &format!("{AT}{HEX}"));
                let text = format!("{repository}{name}");
                let image: crate::images::ImageRef = text.parse().expect("a reference");
                assert_eq!(below(&text, Format::Qcow2), Ok(image.link()));
                assert_eq!(below(&text, Format::Raw), Ok(image.raw().link()));
            }
        }
    }

    #[rstest]
    #[case("")]
    #[case("/etc/shadow")]
    #[case("../secret.qcow2")]
    #[case("a/../../secret.qcow2")]
    #[case("./python.qcow2")]
    #[case("python\0.qcow2")]
    #[case("../acme/python:3")]
    #[case("python:3")]
    #[case("ghcr.io/acme/python:")]
    #[case(&"a/".repeat(600))]
    fn what_leads_elsewhere_is_refused(#[case] image: &str) {
        let error = below(image, Format::Qcow2).expect_err("it is refused");
        assert!(matches!(error, ImageError::Name(_)), "{error}");
    }

    #[rstest]
    #[case("e3b0")]
    #[case(&HEX.to_uppercase())]
    #[case("../../../../../../../../../../../../../../../../../../../../../../etc")]
    fn what_is_no_digest_is_refused(#[case] digest: &str) {
        let error = below(&format!("ghcr.io/acme/python{AT}{digest}"), Format::Qcow2);
        assert!(matches!(error, Err(ImageError::Digest(_))), "{error:?}");
    }
}
