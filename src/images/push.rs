//! From a file into a registry.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use futures_util::stream;
use oci_client::errors::OciDistributionError;
use reqwest::header::HeaderValue;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::digest::Digest;
use super::error::ImageError;
use super::progress::{Progress, Tell};
use super::reference::ImageRef;
use super::registry::{Registry, RegistrySettings};
use super::registry_error::RegistryError;
use crate::image::{BaseImage, Format, References};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.overlay-pool.image.v1";
/// What an artifact has that needs no configuration (OCI image specification, "Guidance for an
/// Empty Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// How much of the file is read at once.
const PART: usize = 1 << 20;

impl RegistrySettings {
    /// Pushes a base image as an artifact with one layer, and gives the digest of its manifest, by
    /// which it can be pulled.
    ///
    /// # Errors
    ///
    /// All that an [`ImageError`] can be. An image that can't be a base image isn't pushed.
    pub async fn push(
        &self,
        file: &Path,
        image: &ImageRef,
        tell: &Tell,
    ) -> Result<Digest, ImageError> {
        if image.digest.is_some() {
            let why = "an image is pushed by a tag, and its digest is what comes of it";
            return Err(ImageError::Reference { text: image.to_string(), why: why.to_owned() });
        }
        let (path, asked) = (file.to_owned(), image.clone());
        let read = spawn_blocking(move || judge_and_hash(&path, &asked)).await;
        let (disk, size) = read.map_err(|error| ImageError::file(file)(error.into()))??;
        let registry = Registry::open(image, self).await?;
        let failed = |source| ImageError::Registry {
            image: image.to_string(),
            registry: registry.name().to_owned(),
            source,
        };
        let of = |error: OciDistributionError| failed(RegistryError::of(&error, "repository"));
        let (client, reference) = registry.to_push().await.map_err(failed)?;
        if !client.blob_exists(reference, &disk.to_string()).await.map_err(of)? {
            let parts = parts(file).map_err(ImageError::file(file))?;
            let tell = Arc::clone(tell);
            let parts = stream::unfold((parts, 0), move |(mut parts, done)| {
                let tell = Arc::clone(&tell);
                async move {
                    let part = parts.recv().await?;
                    let done = done + part.as_ref().map_or(0, Vec::len) as u64;
                    tell(Progress { done, size });
                    Some((part.map(Into::into).map_err(OciDistributionError::from), (parts, done)))
                }
            });
            let digest = disk.to_string();
            let pushed = client.push_blob_stream(reference, parts, &digest, Some(size));
            pushed.await.map_err(of)?;
        }
        let config = b"{}".to_vec();
        let empty = Digest::of(&config);
        if !client.blob_exists(reference, &empty.to_string()).await.map_err(of)? {
            client.push_blob(reference, config, &empty.to_string()).await.map_err(of)?;
        }
        let media_type = match image.format {
            Format::Qcow2 => "application/x-qemu-disk",
            Format::Raw => "application/x-raw-disk-image",
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": { "mediaType": EMPTY, "digest": empty.to_string(), "size": 2 },
            "layers": [{ "mediaType": media_type, "digest": disk.to_string(), "size": size }],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let media_type = HeaderValue::from_static(MANIFEST);
        client.push_manifest_raw(reference, manifest, media_type).await.map_err(of)?;
        Ok(digest)
    }
}

fn judge_and_hash(path: &Path, image: &ImageRef) -> Result<(Digest, u64), ImageError> {
    BaseImage::open(&image.base(path.to_owned()), References::Deny)
        .map_err(|source| ImageError::Base { image: image.to_string(), source })?;
    let hashed = || {
        let (mut file, mut hasher, mut size) = (File::open(path)?, Sha256::new(), 0);
        let mut buffer = vec![0; PART];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok((Digest::by(hasher), size)),
                read => {
                    hasher.update(&buffer[..read]);
                    size += read as u64;
                }
            }
        }
    };
    hashed().map_err(ImageError::file(path))
}

/// A file's bytes, read on a thread of their own.
fn parts(path: &Path) -> io::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let (send, parts) = mpsc::channel(4);
    let mut file = File::open(path)?;
    spawn_blocking(move || {
        loop {
            let mut part = vec![0; PART];
            let part = file.read(&mut part).map(|read| {
                part.truncate(read);
                part
            });
            let is_last = !matches!(&part, Ok(part) if !part.is_empty());
            if part.as_ref().is_ok_and(Vec::is_empty)
                || send.blocking_send(part).is_err()
                || is_last
            {
                return;
            }
        }
    });
    Ok(parts)
}
