//! Why an image of a registry can't be had.

use std::io;
use std::path::PathBuf;

use super::archive::ArchiveError;
use super::digest::Digest;
use super::manifest::ManifestError;
use super::registry_error::RegistryError;
use crate::image::BaseError;

/// Why an image can't be pulled, pushed, named or pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is no reference.
    #[error("image {text:?}: {why}; write it as in ghcr.io/acme/python:3.13")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry gives nothing that can be used.
    #[error("image {image}: {registry}: {source}")]
    Registry {
        /// The image.
        image: String,
        /// The registry, or its mirror.
        registry: String,
        /// What it did.
        source: RegistryError,
    },
    /// Its manifest describes no disk.
    #[error("image {image}: its manifest: {source}")]
    Manifest {
        /// The image.
        image: String,
        /// Why not.
        source: ManifestError,
    },
    /// A layer holds no disk.
    #[error("image {image}: layer {layer}: {source}")]
    Layer {
        /// The image.
        image: String,
        /// The layer.
        layer: Digest,
        /// Why not.
        source: ArchiveError,
    },
    /// The disk is larger than images may be here.
    #[error("image {image}: {size} bytes are more than the {most} that are allowed")]
    TooLarge {
        /// The image.
        image: String,
        /// How large it is said to be.
        size: u64,
        /// How large it may be.
        most: u64,
    },
    /// The disk can't be a base image.
    #[error("image {image}: {source}")]
    Base {
        /// The image.
        image: String,
        /// Why not.
        source: BaseError,
    },
    /// A file of the store, or one to be pushed, can't be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of credentials can't be used.
    #[error("credentials for {registry} in {}: {why}", path.display())]
    Credentials {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// The records of a server's disks aren't where it noted them.
    #[error(
        "records of a server's disks in {}: not there, or others are, so nobody knows which images its \
         disks need; mount what they are on. If they are gone for good: rm '{}'",
        leases.display(), note.display()
    )]
    Records {
        /// Where they were.
        leases: PathBuf,
        /// What the store was told of them.
        note: PathBuf,
    },
    /// The store is pruned, or pulled into, by another process.
    #[error("store {}: another process pulls into it or prunes it; try again later", path.display())]
    Busy {
        /// The store.
        path: PathBuf,
    },
}

impl ImageError {
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
