//! A base image: the shared, read-only disk under the overlays.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cut_off::cut_off;
use super::header::{Header, READ_LIMIT};
use super::header_error::HeaderError;
use super::kind::Kind;
use super::layout::SECTOR;
use super::overlay::{Format, Overlay, OverlayError, OverlayOptions};
use crate::paths::explained;

/// How a caller names a base image: a path, and the format it declares.
///
/// A path alone means qcow2. A raw image must be declared, since any bytes are a raw image and a
/// guest could write a header that turns its raw disk into a qcow2 one.
///
/// # Example
///
/// ```
/// use overlay_pool::image::{BaseRef, Format};
///
/// assert_eq!(BaseRef::from("/images/python-3-base-x86_64.qcow2").format, Format::Qcow2);
/// assert_eq!(BaseRef::raw("/images/disk.img").format, Format::Raw);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BaseRef {
    /// Where the image is; relative to the working directory at the call.
    pub path: PathBuf,
    /// What the caller says it is.
    pub format: Format,
}

impl BaseRef {
    /// Names a qcow2 image.
    pub fn qcow2(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: Format::Qcow2 }
    }

    /// Names a raw image.
    pub fn raw(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: Format::Raw }
    }
}

impl BaseRef {
    /// The same with an absolute path, by the working directory and without a look at the disk.
    pub(crate) fn absolute(self) -> Result<Self, (PathBuf, io::Error)> {
        Ok(Self { path: absolute(self.path)?, ..self })
    }
}

impl<P: AsRef<Path>> From<P> for BaseRef {
    fn from(path: P) -> Self {
        Self::qcow2(path.as_ref())
    }
}

/// Makes a path absolute, by the working directory and without a look at the disk.
pub(crate) fn absolute(path: PathBuf) -> Result<PathBuf, (PathBuf, io::Error)> {
    std::path::absolute(&path).map_err(|source| (path, source))
}

/// Whether a base image may refer to other files: a backing file, an external data file.
///
/// Whoever can write such a base decides which files the VM reads, so the default is no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum References {
    /// A base image that refers to another file is refused.
    #[default]
    Deny,
    /// Such a base image is taken; nothing of what it refers to is opened here.
    Allow,
}

/// What tells one state of a file from another (rule A10).
///
/// A copy that keeps the time of modification (`cp -p`) still differs by the time of change. That
/// also differs after `chmod`, a new hard link or a rename, which change no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Reads the identity of the file at `path`, following symbolic links: one `statx`.
    ///
    /// # Errors
    ///
    /// Those of `stat`.
    pub fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether it is the same file, size and time of modification: then nothing but the time of
    /// change can differ, and the content may be the same or not.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } == *other
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Why a file can't be a base image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The file isn't there, or may not be read.
    #[error("base image {}: {source}", path.display())]
    Io {
        /// The base image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a device, a socket.
    #[error("base image {}: not a regular file", path.display())]
    NotAFile {
        /// The base image.
        path: PathBuf,
    },
    /// The qcow2 header is bad.
    #[error("base image {}: {source}", path.display())]
    Header {
        /// The base image.
        path: PathBuf,
        /// Which field, and why.
        source: HeaderError,
    },
    /// The image refers to another file, and that isn't allowed.
    #[error(
        "base image {}: its {what} is {}, and images that refer to other files are not allowed; \
         flatten it with qemu-img convert",
        path.display(), refers_to.display()
    )]
    Reference {
        /// The base image.
        path: PathBuf,
        /// `backing file` or `external data file`.
        what: &'static str,
        /// The file that the image names.
        refers_to: PathBuf,
    },
    /// No overlay can be made over it.
    #[error("base image {}: {source}", path.display())]
    Overlay {
        /// The base image.
        path: PathBuf,
        /// Why not.
        source: OverlayError,
    },
}

/// A base image that was opened and judged good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    path: PathBuf,
    format: Format,
    virtual_size: u64,
    identity: Identity,
}

impl BaseImage {
    /// Opens the image and judges it: by its first 64 KiB and, if it is qcow2, by what its tables
    /// say of its length, of which a bounded part is read.
    ///
    /// # Errors
    ///
    /// A [`BaseError`] that says what is wrong with which file.
    pub fn open(base: &BaseRef, references: References) -> Result<Self, BaseError> {
        let failed = |source| BaseError::Io { path: base.path.clone(), source };
        // One that is replaced meanwhile is the old one or the new one, not an error.
        for _ in 0..16 {
            let file = open(&base.path)?;
            // Where the name leads to in one step may be elsewhere in the next.
            let path = base.path.canonicalize().map_err(failed)?;
            let image = Self::judge(&file, path, base.format, references)?;
            if Identity::of(&image.path).map_err(failed)? == image.identity {
                return Ok(image);
            }
        }
        Err(failed(io::Error::other("it was replaced each time it was judged; try again")))
    }

    /// Judges an image that is open already. `path` is what overlays record: where QEMU, and
    /// nobody but who is trusted, finds this very file.
    ///
    /// # Errors
    ///
    /// A [`BaseError`] that calls the file by `path`.
    pub fn judge(
        file: &File,
        path: PathBuf,
        format: Format,
        references: References,
    ) -> Result<Self, BaseError> {
        let (bytes, metadata) = read(file, &path)?;
        let virtual_size = match format {
            // As QEMU counts: what is over the last whole sector fills another one.
            Format::Raw => {
                if let Some(kind) = Kind::of(&bytes) {
                    tracing::warn!(path = %path.display(), "declared as raw, but it is {kind}");
                }
                metadata.size().next_multiple_of(SECTOR)
            }
            Format::Qcow2 => qcow2_size(file, &path, &bytes, metadata.size(), references)?,
        };
        Ok(Self { path, format, virtual_size, identity: Identity::from(&metadata) })
    }

    /// How the image is named by its resolved path.
    #[must_use]
    pub fn name(&self) -> BaseRef {
        BaseRef { path: self.path.clone(), format: self.format }
    }

    /// The absolute path with every symbolic link resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The declared format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The size of the guest's disk in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Which state of the file was judged.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Lays out an empty overlay over this image, of the image's size or a larger one.
    ///
    /// # Errors
    ///
    /// [`BaseError::Overlay`] if the size is smaller than the base's or too large, or the
    /// path too long.
    pub fn overlay(&self, options: OverlayOptions) -> Result<Overlay, BaseError> {
        let failed = |source| BaseError::Overlay { path: self.path.clone(), source };
        let size = options.virtual_size.unwrap_or(self.virtual_size);
        if size.div_ceil(SECTOR) < self.virtual_size.div_ceil(SECTOR) {
            return Err(failed(OverlayError::SmallerThanBase { size, base: self.virtual_size }));
        }
        Overlay::new(&self.path, self.format, size, options.profile).map_err(failed)
    }
}

/// A base image as a caller gives it: by name, or opened and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Base {
    /// To be looked up.
    Named(BaseRef),
    /// Judged already, and not looked up again.
    Judged(BaseImage),
}

impl Base {
    /// How it is named.
    #[must_use]
    pub fn name(&self) -> BaseRef {
        match self {
            Self::Named(name) => name.clone(),
            Self::Judged(image) => image.name(),
        }
    }

    /// The same with an absolute path.
    pub(crate) fn absolute(self) -> Result<Self, (PathBuf, io::Error)> {
        match self {
            Self::Named(name) => name.absolute().map(Self::Named),
            judged @ Self::Judged(_) => Ok(judged),
        }
    }

    /// The judged image, opened now if it wasn't.
    pub(crate) fn judged(&self, references: References) -> Result<BaseImage, BaseError> {
        match self {
            Self::Named(name) => BaseImage::open(name, references),
            Self::Judged(image) => Ok(image.clone()),
        }
    }
}

impl<N: Into<BaseRef>> From<N> for Base {
    fn from(name: N) -> Self {
        Self::Named(name.into())
    }
}

impl From<BaseImage> for Base {
    fn from(image: BaseImage) -> Self {
        Self::Judged(image)
    }
}

/// The first [`READ_LIMIT`] bytes of a regular file, and what `fstat` says of it.
///
/// # Errors
///
/// [`BaseError::Io`] and [`BaseError::NotAFile`].
pub fn read_start(path: &Path) -> Result<(Vec<u8>, Metadata), BaseError> {
    read(&open(path)?, path)
}

fn open(path: &Path) -> Result<File, BaseError> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let opened = File::options().read(true).custom_flags(nonblock).open(path);
    opened.map_err(|error| BaseError::Io {
        path: path.to_owned(),
        source: explained(path, path, error),
    })
}

fn read(file: &File, path: &Path) -> Result<(Vec<u8>, Metadata), BaseError> {
    let failed = |source| BaseError::Io { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(BaseError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = vec![0; READ_LIMIT];
    let mut length = 0;
    // Wherever others who have it open are in it.
    while length < READ_LIMIT {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    bytes.truncate(length);
    Ok((bytes, metadata))
}

fn qcow2_size(
    file: &File,
    path: &Path,
    bytes: &[u8],
    file_len: u64,
    references: References,
) -> Result<u64, BaseError> {
    let judge = || {
        let header = Header::parse(bytes)?;
        header.check(file_len)?;
        Ok(header)
    };
    let header = judge().map_err(|source| BaseError::Header { path: path.to_owned(), source })?;
    if references == References::Deny
        && let Some((what, name)) = reference(&header)
    {
        return Err(BaseError::Reference { path: path.to_owned(), what, refers_to: name });
    }
    match cut_off(file, &header, file_len) {
        Ok(None) => {}
        Ok(Some(source)) => return Err(BaseError::Header { path: path.to_owned(), source }),
        Err(source) => return Err(BaseError::Io { path: path.to_owned(), source }),
    }
    // QEMU counts whole sectors: what is left over is not part of the disk.
    Ok(header.size / SECTOR * SECTOR)
}

/// The file that an image refers to.
fn reference(header: &Header) -> Option<(&'static str, PathBuf)> {
    if let Some(name) = &header.backing_file {
        return Some(("backing file", name.clone()));
    }
    let name = header.extensions.data_file.clone();
    (header.has_data_file() || name.is_some())
        .then(|| ("external data file", name.unwrap_or_default()))
}
