//! From a registry into the store.

use std::io;
use std::path::PathBuf;
use std::pin::pin;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use super::archive::ArchiveError;
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{Blob, Manifest, ManifestError, Packing};
use super::partial::{LOOK, Partial};
use super::progress::{Progress, Tell};
use super::reference::ImageRef;
use super::registry::{Registry, RegistrySettings};
use super::registry_error::RegistryError;
use super::retries::Retries;
use super::store::Store;
use super::unpack::{Unpack, unpack};

/// How many parts of a blob may wait to be written.
const QUEUE: usize = 16;

/// Pulls images into a store.
#[derive(Clone, Debug)]
pub struct Puller {
    /// Where they are put.
    pub store: Store,
    /// How registries are asked.
    pub settings: RegistrySettings,
    /// How many bytes an image may have, packed and unpacked.
    pub max_size: u64,
}

/// An image that is in the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pulled {
    /// The digest of the disk.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// How many bytes were received for it: none if it was there already.
    pub received: u64,
}

impl Puller {
    /// Pulls an image and gives it its name. Cancelled, what was received stays to be gone on with.
    ///
    /// # Errors
    ///
    /// All that an [`ImageError`] can be. Then the name leads where it led before.
    pub async fn pull(&self, image: &ImageRef, tell: &Tell) -> Result<Pulled, ImageError> {
        let holding = self.store.hold().await?;
        let pulled = self.fetch(image, tell).await?;
        self.store.link(image, &pulled.digest)?;
        drop(holding);
        Ok(pulled)
    }

    /// Pulls an image without giving it a name. Who wants to keep it [holds](Store::hold) the store
    /// until it has one.
    ///
    /// # Errors
    ///
    /// All that an [`ImageError`] can be.
    pub async fn fetch(&self, image: &ImageRef, tell: &Tell) -> Result<Pulled, ImageError> {
        let mut places = self.settings.places(image)?.into_iter().peekable();
        loop {
            let Some(place) = places.next() else { unreachable!("the registry itself comes last") };
            match self.fetch_from(image, &place, tell).await {
                // The next may have it, or be there.
                Err(error @ ImageError::Registry { .. }) if places.peek().is_some() => {
                    tracing::warn!(%error, "mirror");
                }
                fetched => return fetched,
            }
        }
    }

    async fn fetch_from(
        &self,
        image: &ImageRef,
        place: &ImageRef,
        tell: &Tell,
    ) -> Result<Pulled, ImageError> {
        let registry = Registry::open(place, &self.settings).await?;
        let work = Work { puller: self, image, registry: &registry, tell };
        let mut manifest = work.manifest(image.digest).await?;
        if let Manifest::Index(digest) = manifest {
            manifest = work.manifest(Some(digest)).await?;
        }
        match manifest {
            Manifest::Index(_) => Err(work.no_disk(ManifestError::Nested)),
            Manifest::Disk(blob) => work.disk(blob).await,
            Manifest::Layers(layers) => {
                // What is in an upper one hides what is below.
                for (blob, packing) in layers.into_iter().rev() {
                    if let Some(pulled) = work.layer(blob, packing).await? {
                        return Ok(pulled);
                    }
                }
                Err(work.no_disk(ManifestError::NoDisk))
            }
        }
    }
}

/// A pull under way.
#[derive(Clone, Copy)]
struct Work<'a> {
    puller: &'a Puller,
    image: &'a ImageRef,
    registry: &'a Registry,
    tell: &'a Tell,
}

impl Work<'_> {
    fn failed(&self, source: RegistryError) -> ImageError {
        let registry = self.registry.name().to_owned();
        ImageError::Registry { image: self.image.to_string(), registry, source }
    }

    fn no_disk(&self, source: ManifestError) -> ImageError {
        ImageError::Manifest { image: self.image.to_string(), source }
    }

    fn no_layer(&self, layer: Digest, source: ArchiveError) -> ImageError {
        ImageError::Layer { image: self.image.to_string(), layer, source }
    }

    async fn manifest(&self, digest: Option<Digest>) -> Result<Manifest, ImageError> {
        let mut retries = Retries::new(self.puller.settings.retries);
        let bytes = loop {
            match self.registry.manifest(digest).await {
                Ok(bytes) => break bytes,
                Err(trouble) => retries.after(trouble).await.map_err(|last| self.failed(last))?,
            }
        };
        Manifest::parse(&bytes).map_err(|source| self.no_disk(source))
    }

    /// Has the image that is a blob.
    async fn disk(&self, blob: Blob) -> Result<Pulled, ImageError> {
        self.allow(blob.size)?;
        let (store, image) = (self.puller.store.clone(), self.image.clone());
        let path = store.image(&blob.digest);
        let is_there = || path.is_file();
        let (received, partial) =
            if is_there() { (0, None) } else { self.receive(blob, is_there).await? };
        let judged = spawn_blocking(move || {
            let Some(partial) = partial else {
                return store.judge(&blob.digest, &image).map(drop);
            };
            let admitted = store.admit(partial.path(), partial.file(), &blob.digest, &image);
            admitted.inspect_err(|_| partial.discard())
        });
        judged.await.map_err(ended)??;
        Ok(Pulled { digest: blob.digest, path, received })
    }

    /// Has the image that is in a layer; none if there is none in it.
    async fn layer(&self, blob: Blob, packing: Packing) -> Result<Option<Pulled>, ImageError> {
        self.allow(blob.size)?;
        let (store, image) = (self.puller.store.clone(), self.image.clone());
        let known = || store.disk_of(&blob.digest);
        let received = match known() {
            Some(_) => (0, None),
            None => self.receive(blob, || known().is_some()).await?,
        };
        let (received, Some(partial)) = received else {
            let Some(digest) = known() else { return Ok(None) };
            store.judge(&digest, &image)?;
            return Ok(Some(Pulled { digest, path: store.image(&digest), received: 0 }));
        };
        let most = self.puller.max_size;
        let (for_store, for_image) = (store.clone(), image.clone());
        let unpacked = spawn_blocking(move || {
            let unpacked = unpack(&for_store, &for_image, blob.digest, &partial, packing, most);
            // Whether it held one or not, it is of no more use.
            partial.discard();
            unpacked
        });
        match unpacked.await.map_err(ended)? {
            Ok(Some(digest)) => Ok(Some(Pulled { digest, path: store.image(&digest), received })),
            Ok(None) => Ok(None),
            Err(Unpack::Archive(source)) => Err(self.no_layer(blob.digest, source)),
            Err(Unpack::Store(error)) => Err(error),
        }
    }

    fn allow(&self, size: u64) -> Result<(), ImageError> {
        let most = self.puller.max_size;
        if size <= most {
            return Ok(());
        }
        Err(ImageError::TooLarge { image: self.image.to_string(), size, most })
    }

    /// Receives a blob, whole and with its digest, and says how many bytes came; nothing if another
    /// process has done it meanwhile, as `is_done` tells.
    async fn receive(
        &self,
        blob: Blob,
        is_done: impl Fn() -> bool,
    ) -> Result<(u64, Option<Partial>), ImageError> {
        let store = &self.puller.store;
        let mut partial = loop {
            let path = store.partial(&blob.digest);
            let opened = spawn_blocking(move || Partial::open(&path, blob.size)).await;
            let opened = opened.map_err(ended)??;
            if is_done() {
                if let Some(partial) = opened {
                    partial.discard();
                }
                return Ok((0, None));
            }
            match opened {
                Some(partial) => break partial,
                None => tokio::time::sleep(LOOK).await,
            }
        };
        let mut was_there = partial.length();
        loop {
            partial = self.complete(partial, blob).await?;
            let actual = partial.digest();
            if actual == blob.digest {
                return Ok((blob.size - was_there, Some(partial)));
            }
            if was_there == 0 {
                partial.discard();
                return Err(self.failed(RegistryError::Digest { expected: blob.digest, actual }));
            }
            // What an earlier pull left may be what is wrong.
            was_there = 0;
            partial.restart().map_err(ImageError::file(partial.path()))?;
        }
    }

    /// Receives what is missing of a blob.
    async fn complete(&self, mut partial: Partial, blob: Blob) -> Result<Partial, ImageError> {
        let store = &self.puller.store;
        let missing = blob.size - partial.length();
        let free = store.bytes_free()?;
        if free < missing {
            partial.discard();
            let why = format!("{missing} bytes are needed, and {free} are free");
            let full = io::Error::new(io::ErrorKind::StorageFull, why);
            return Err(ImageError::file(store.path())(full));
        }
        let mut retries = Retries::new(self.puller.settings.retries);
        while partial.length() < blob.size {
            let before = partial.length();
            let (back, outcome) = self.receive_once(partial, blob).await;
            let Some(back) = back else { return Err(ended_early()) };
            partial = back;
            match outcome {
                Ok(()) => {}
                Err(Receive::Registry(trouble)) => {
                    if partial.length() > before {
                        retries = Retries::new(self.puller.settings.retries);
                    }
                    let is_useless = matches!(trouble, RegistryError::TooLarge { .. });
                    if let Err(last) = retries.after(trouble).await {
                        if is_useless {
                            partial.discard();
                        }
                        return Err(self.failed(last));
                    }
                }
                Err(Receive::Write(error)) => {
                    // A full disk shall not stay so for this.
                    let failed = ImageError::file(partial.path())(error);
                    partial.discard();
                    return Err(failed);
                }
            }
        }
        Ok(partial)
    }

    /// Asks once for what is missing. What came is in what it gives back.
    async fn receive_once(
        &self,
        mut partial: Partial,
        blob: Blob,
    ) -> (Option<Partial>, Result<(), Receive>) {
        let stream = match self.registry.blob(blob.digest, partial.length()).await {
            Ok((start, stream)) => {
                let restarted = if start == 0 { partial.restart() } else { Ok(()) };
                match restarted {
                    Ok(()) => stream,
                    Err(error) => return (Some(partial), Err(Receive::Write(error))),
                }
            }
            Err(trouble) => return (Some(partial), Err(Receive::Registry(trouble))),
        };
        let mut received = partial.length();
        let (send, mut queue) = mpsc::channel(QUEUE);
        // Hashing and writing are work for a thread of its own.
        let writer = spawn_blocking(move || {
            let mut written = Ok(());
            while let Some(bytes) = queue.blocking_recv() {
                written = partial.write(bytes_of(&bytes));
                if written.is_err() {
                    break;
                }
            }
            (partial, written)
        });
        let mut stream = pin!(stream);
        let outcome = loop {
            let bytes = match stream.next().await {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => break Err(RegistryError::transport(&error)),
                None if received < blob.size => {
                    break Err(RegistryError::Short { received, announced: blob.size });
                }
                None => break Ok(()),
            };
            received += bytes.len() as u64;
            if received > blob.size {
                break Err(RegistryError::TooLarge { what: "a blob", most: blob.size });
            }
            // The writer ends only with an error of its own.
            if send.send(bytes).await.is_err() {
                break Ok(());
            }
            (self.tell)(Progress { done: received, size: blob.size });
        };
        drop(send);
        match writer.await {
            Ok((partial, Ok(()))) => (Some(partial), outcome.map_err(Receive::Registry)),
            Ok((partial, Err(error))) => (Some(partial), Err(Receive::Write(error))),
            Err(_) => (None, Ok(())),
        }
    }
}

/// Why a blob didn't come whole.
enum Receive {
    Registry(RegistryError),
    Write(io::Error),
}

fn bytes_of(bytes: &impl AsRef<[u8]>) -> &[u8] {
    bytes.as_ref()
}

/// A thread of ours panicked, or the runtime ends.
fn ended(error: JoinError) -> ImageError {
    ImageError::file("store")(error.into())
}

fn ended_early() -> ImageError {
    ImageError::file("store")(io::Error::other("a thread ended early"))
}
