//! Where pulled images lie.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, flock, fstatvfs,
    utimensat,
};
use rustix::io::Errno;

use super::digest::Digest;
use super::directory::{make_directory, put, read_directory};
use super::error::ImageError;
use super::reference::ImageRef;
use crate::image::{BaseImage, Format, References};

/// The images, by digest.
const IMAGES: &str = "sha256";
/// Links to the disks that were in layers, by the layers' digests.
const LAYERS: &str = "layers";
/// What is being received, by digest.
const PARTIAL: &str = "partial";
/// Links to directories in which disks may refer to the images.
pub(super) const DISKS: &str = "disks";
/// Links to directories of records of such disks.
pub(super) const LEASES: &str = "leases";
/// Images that may be removed, while it is looked again whether something needs them.
const ASIDE: &str = "aside";
/// Locked by whoever adds, together, or prunes, alone.
const LOCK: &str = ".lock";
/// A link is made here under another name first.
const NEW: &str = ".new-";
/// How long is waited for the lock at a time.
const PAUSE: Duration = Duration::from_millis(20);
/// How deep a repository's directories may be, as references are at most 255 characters long.
const MAX_DEPTH: usize = 130;

/// A directory of images.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// An image in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// How many bytes it has on the disk.
    pub size: u64,
    /// What it is named by.
    pub names: Vec<ImageRef>,
    /// When it was last pulled, asked for by name, or read, as far as its filesystem tells.
    pub used: SystemTime,
}

/// As long as it is there, nothing of a store is pruned. The kernel gives it up however its process
/// ends.
#[derive(Debug)]
pub struct Holding {
    _lock: File,
}

impl Store {
    /// The store at `path`, which is made if it is missing.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if it can't be made, or another user may change it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let path = path.into();
        let path = std::path::absolute(&path).map_err(ImageError::file(&path))?;
        let store = Self { path };
        for name in ["", IMAGES, LAYERS, PARTIAL, DISKS, LEASES, ASIDE] {
            make_directory(&store.path.join(name))?;
        }
        store.recover()?;
        Ok(store)
    }

    /// The store in this directory; none if there is none.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let is_store = [IMAGES, DISKS, ASIDE].iter().all(|name| path.join(name).is_dir());
        let path = is_store.then(|| std::path::absolute(path).ok()).flatten()?;
        Some(Self { path })
    }

    /// Puts back what somebody moved aside who was killed while it was pruned, as who opens it does.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if something can't be put back.
    pub fn recover(&self) -> Result<(), ImageError> {
        // Who prunes holds it alone, and puts back what stays.
        if !read_directory(&self.path.join(ASIDE))?.is_empty()
            && let Some(_holding) = self.lock(FlockOperation::NonBlockingLockShared)?
        {
            self.put_back()?;
        }
        Ok(())
    }

    /// Where files are that are no images, or not whole ones.
    #[must_use]
    pub fn unfinished(&self) -> [PathBuf; 2] {
        [self.partials(), self.path.join(ASIDE)]
    }

    /// The store that an image is in, by its resolved path; none if it is in none.
    #[must_use]
    pub fn of(image: &Path) -> Option<Self> {
        Digest::from_hex(image.file_name()?.to_str()?)?;
        let images = image.parent()?;
        let path = images.parent()?;
        let is_store = images.file_name()? == IMAGES && path.join(DISKS).is_dir();
        is_store.then(|| Self { path: path.to_owned() })
    }

    /// The store of an image by a name of it, also if the image isn't there.
    #[must_use]
    pub fn by_name(name: &Path) -> Option<Self> {
        Self::of(&name.parent()?.join(fs::read_link(name).ok()?))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the image with a digest is, or would be.
    #[must_use]
    pub fn image(&self, digest: &Digest) -> PathBuf {
        self.path.join(IMAGES).join(digest.hex())
    }

    /// The path by which an image is named.
    #[must_use]
    pub fn name(&self, image: &ImageRef) -> PathBuf {
        self.path.join(image.link())
    }

    /// The image that a name leads to; none if it isn't there.
    #[must_use]
    pub fn find(&self, image: &ImageRef) -> Option<Digest> {
        leads_to(&self.name(image)).filter(|digest| self.image(digest).is_file())
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.path.join(PARTIAL).join(digest.hex())
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.path.join(PARTIAL)
    }

    fn layer(&self, digest: &Digest) -> PathBuf {
        self.path.join(LAYERS).join(digest.hex())
    }

    /// The disk that a layer held, if that is known and it is still there.
    pub(super) fn disk_of(&self, layer: &Digest) -> Option<Digest> {
        leads_to(&self.layer(layer)).filter(|digest| self.image(digest).is_file())
    }

    /// Keeps the store from being pruned, as soon as it isn't.
    ///
    /// # Errors
    ///
    /// [`ImageError::Busy`] if it is pruned for long, and [`ImageError::File`].
    pub async fn hold(&self) -> Result<Holding, ImageError> {
        const ATTEMPTS: usize = 1500;
        for _ in 0..ATTEMPTS {
            if let Some(holding) = self.lock(FlockOperation::NonBlockingLockShared)? {
                return Ok(holding);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(ImageError::Busy { path: self.path.clone() })
    }

    /// Keeps others from adding to it.
    pub(super) fn hold_alone(&self) -> Result<Holding, ImageError> {
        const ATTEMPTS: usize = 50;
        for _ in 0..ATTEMPTS {
            if let Some(holding) = self.lock(FlockOperation::NonBlockingLockExclusive)? {
                return Ok(holding);
            }
            std::thread::sleep(PAUSE);
        }
        Err(ImageError::Busy { path: self.path.clone() })
    }

    fn lock(&self, operation: FlockOperation) -> Result<Option<Holding>, ImageError> {
        let path = self.path.join(LOCK);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(ImageError::file(&path))?;
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Holding { _lock: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(ImageError::file(&path)(errno.into())),
        }
    }

    /// How many bytes are free for this user.
    pub(super) fn bytes_free(&self) -> Result<u64, ImageError> {
        let found = File::open(&self.path).and_then(|store| Ok(fstatvfs(&store)?));
        let found = found.map_err(ImageError::file(&self.path))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Judges an image that is there already.
    pub(super) fn judge(&self, digest: &Digest, image: &ImageRef) -> Result<BaseImage, ImageError> {
        let base = image.base(self.image(digest));
        BaseImage::open(&base, References::Deny)
            .map_err(|source| ImageError::Base { image: image.to_string(), source })
    }

    /// Judges a file that is complete, and puts it among the images: on the disk, and read-only.
    /// Another that is there already has the same bytes, and stays.
    pub(super) fn admit(
        &self,
        from: &Path,
        file: &File,
        digest: &Digest,
        image: &ImageRef,
    ) -> Result<(), ImageError> {
        let to = self.image(digest);
        BaseImage::judge(file, to.clone(), image.format, References::Deny)
            .map_err(|source| ImageError::Base { image: image.to_string(), source })?;
        let admitted = || {
            file.set_permissions(Permissions::from_mode(0o444))?;
            // Its name alone says that it is whole: also after a power failure.
            file.sync_all()?;
            put(from, &to)?;
            File::open(self.path.join(IMAGES))?.sync_all()
        };
        admitted().map_err(ImageError::file(from))
    }

    /// Notes which disk a layer held.
    pub(super) fn note_layer(&self, layer: &Digest, disk: &Digest) -> Result<(), ImageError> {
        self.put_link(&self.layer(layer), disk)
    }

    /// Has an image's name lead to the image with this digest, from one moment to the next.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if that image isn't there, or the name can't be made.
    pub fn link(&self, image: &ImageRef, to: &Digest) -> Result<PathBuf, ImageError> {
        let path = self.image(to);
        fs::metadata(&path).map_err(ImageError::file(&path))?;
        let name = self.name(image);
        if leads_to(&name) == Some(*to) {
            // Of use, as its being here shows.
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
            let times = Timestamps { last_access: same, last_modification: now };
            let _ = utimensat(CWD, &name, &times, AtFlags::SYMLINK_NOFOLLOW);
            return Ok(name);
        }
        self.put_link(&name, to)?;
        Ok(name)
    }

    fn put_link(&self, link: &Path, to: &Digest) -> Result<(), ImageError> {
        let directory = link.parent().unwrap_or(&self.path);
        let below = directory.strip_prefix(&self.path).unwrap_or(directory);
        let mut made = self.path.clone();
        for part in below.components() {
            made.push(part);
            make_directory(&made)?;
        }
        // Relative, so that the store may be mounted elsewhere.
        let up: PathBuf = below.components().map(|_| Component::ParentDir).collect();
        let target = up.join(IMAGES).join(to.hex());
        let new = directory.join(format!("{NEW}{:032x}", rand::random::<u128>()));
        let put = symlink(&target, &new).and_then(|()| fs::rename(&new, link));
        put.map_err(|error| {
            let _ = fs::remove_file(&new);
            ImageError::file(link)(error)
        })
    }

    /// All images, by digest.
    ///
    /// # Errors
    ///
    /// [`ImageError::File`] if the store can't be read.
    pub fn list(&self) -> Result<Vec<Stored>, ImageError> {
        let mut images = Vec::new();
        for entry in read_directory(&self.path.join(IMAGES))? {
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            // Another process may be pruning it.
            let (Some(digest), Ok(found)) = (digest, entry.metadata()) else { continue };
            let used = found.modified().into_iter().chain(found.accessed()).max();
            images.push(Stored {
                digest,
                path: entry.path(),
                size: found.blocks() * 512,
                names: Vec::new(),
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        images.sort_by_key(|image| image.digest);
        for (name, digest) in self.names()? {
            let Ok(at) = images.binary_search_by_key(&digest, |image| image.digest) else {
                continue;
            };
            let named = fs::symlink_metadata(self.name(&name)).and_then(|link| link.modified());
            images[at].used = images[at].used.max(named.unwrap_or(SystemTime::UNIX_EPOCH));
            images[at].names.push(name);
        }
        Ok(images)
    }

    /// All names, with what they lead to.
    fn names(&self) -> Result<Vec<(ImageRef, Digest)>, ImageError> {
        let named = |link: PathBuf| {
            let name = link.strip_prefix(&self.path).ok().and_then(ImageRef::of_link);
            name.zip(leads_to(&link))
        };
        let mut names: Vec<_> = self.links()?.into_iter().filter_map(named).collect();
        names.sort_by_key(|(name, _)| name.to_string());
        Ok(names)
    }

    /// All links: names, those of layers, and new ones that never got their name.
    fn links(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut links = Vec::new();
        let mut directories = vec![(self.path.clone(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            for entry in read_directory(&directory)? {
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() && depth < MAX_DEPTH {
                    directories.push((entry.path(), depth + 1));
                } else if kind.is_symlink() {
                    links.push(entry.path());
                }
            }
        }
        Ok(links)
    }

    /// Removes links that never got their name.
    pub(super) fn remove_new_links(&self) -> Result<(), ImageError> {
        let is_new = |link: &PathBuf| {
            let name = link.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(NEW))
        };
        for link in self.links()?.into_iter().filter(is_new) {
            fs::remove_file(&link).map_err(ImageError::file(&link))?;
        }
        Ok(())
    }

    /// Moves an image aside: nothing finds it any more, and it can be put back.
    pub(super) fn set_aside(&self, image: &Stored) -> Result<(), ImageError> {
        let moved = fs::rename(&image.path, self.aside(&image.digest));
        moved.map_err(ImageError::file(&image.path))
    }

    /// Puts back what is aside, also what somebody left there who was killed.
    pub(super) fn put_back(&self) -> Result<(), ImageError> {
        for entry in read_directory(&self.path.join(ASIDE))? {
            let Some(digest) = entry.file_name().to_str().and_then(Digest::from_hex) else {
                continue;
            };
            let (from, to) = (entry.path(), self.image(&digest));
            match put(&from, &to) {
                // Another process puts it back too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved.map_err(ImageError::file(&from))?,
            }
        }
        Ok(())
    }

    fn aside(&self, digest: &Digest) -> PathBuf {
        self.path.join(ASIDE).join(digest.hex())
    }

    /// Removes an image that is aside, with its names, and what is known of the layers that it was
    /// in.
    pub(super) fn remove(&self, image: &Stored) -> Result<(), ImageError> {
        // The names first: none shall lead nowhere.
        for name in &image.names {
            let path = self.name(name);
            fs::remove_file(&path).map_err(ImageError::file(&path))?;
            self.remove_empty(&path);
        }
        for entry in read_directory(&self.path.join(LAYERS))? {
            if leads_to(&entry.path()) == Some(image.digest) {
                fs::remove_file(entry.path()).map_err(ImageError::file(entry.path()))?;
            }
        }
        let aside = self.aside(&image.digest);
        fs::remove_file(&aside).map_err(ImageError::file(&aside))
    }

    /// Removes the directories of a name that are empty now.
    fn remove_empty(&self, name: &Path) {
        let above = name.ancestors().skip(1).take_while(|above| *above != self.path);
        for directory in above {
            if fs::remove_dir(directory).is_err() {
                return;
            }
        }
    }
}

impl Stored {
    /// The format that its names say; qcow2 if it has none.
    #[must_use]
    pub fn format(&self) -> Format {
        self.names.first().map_or(Format::Qcow2, |name| name.format)
    }
}

/// The digest of the image that a link of ours names.
fn leads_to(link: &Path) -> Option<Digest> {
    let target = fs::read_link(link).ok()?;
    let directory = target.parent()?.file_name()?;
    (directory == IMAGES).then(|| Digest::from_hex(target.file_name()?.to_str()?))?
}
