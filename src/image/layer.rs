//! An overlay that somebody has, and that may have been written to.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::base::{BaseError, BaseImage, Identity, read};
use super::cut_off::cut_off;
use super::header::Header;
use super::header_error::HeaderError;
use super::layout::SECTOR;

/// Why a file is no overlay of a base image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A directory, a device, a socket.
    #[error("not a regular file")]
    NotAFile,
    /// The qcow2 header is bad.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It is an image of its own.
    #[error("it has no backing file, so it is no overlay of {}", base.display())]
    NoBackingFile {
        /// The base image that it should have.
        base: PathBuf,
    },
    /// It is an overlay of another file.
    #[error("it is an overlay of {}, and not of {}", records.display(), base.display())]
    OtherBase {
        /// The backing file that it records.
        records: PathBuf,
        /// The base image that it should have.
        base: PathBuf,
    },
    /// It says that its base image has another format.
    #[error("it records its backing file as {records}, and {} is {expected}", base.display())]
    OtherFormat {
        /// The format that it records.
        records: String,
        /// The base image.
        base: PathBuf,
        /// The base image's format.
        expected: &'static str,
    },
    /// The guest's data are elsewhere.
    #[error("its data lie in another file, which isn't allowed")]
    DataFile,
    /// It would cut the base image's disk off.
    #[error("its disk of {size} bytes is smaller than the {base} bytes of its base image")]
    Smaller {
        /// The size of its disk, in bytes.
        size: u64,
        /// That of the base image's, in bytes.
        base: u64,
    },
}

/// An overlay that was opened and judged good, for one base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// The size of the guest's disk in bytes.
    pub(crate) virtual_size: u64,
    /// How long its file is, in bytes.
    pub(crate) file_len: u64,
}

impl Layer {
    /// Judges an open file that `path` led to: it must be an overlay of this very base image, and
    /// refer to no other file. One that was not closed in order, which QEMU repairs, will do.
    pub(crate) fn judge(file: &File, path: &Path, base: &BaseImage) -> Result<Self, LayerError> {
        let (bytes, metadata) = read(file, path).map_err(|error| match error {
            BaseError::Io { source, .. } => LayerError::Io(source),
            _ => LayerError::NotAFile,
        })?;
        let header = Header::parse(&bytes)?.into_closed();
        let size = Self::size(file, &header, &metadata, base)?;
        let records = header
            .backing_file
            .ok_or_else(|| LayerError::NoBackingFile { base: base.path().to_owned() })?;
        // Which it may name from where it lies.
        let named = path.parent().unwrap_or(path).join(&records);
        if Identity::of(&named).ok() != Some(base.identity()) {
            return Err(LayerError::OtherBase { records, base: base.path().to_owned() });
        }
        let expected = base.format().as_str();
        match header.extensions.backing_format {
            Some(records) if records != expected => {
                let base = base.path().to_owned();
                Err(LayerError::OtherFormat { records, base, expected })
            }
            _ => Ok(Self { virtual_size: size, file_len: metadata.size() }),
        }
    }

    fn size(
        file: &File,
        header: &Header,
        metadata: &Metadata,
        base: &BaseImage,
    ) -> Result<u64, LayerError> {
        header.check(metadata.size())?;
        if header.has_data_file() || header.extensions.data_file.is_some() {
            return Err(LayerError::DataFile);
        }
        if let Some(error) = cut_off(file, header, metadata.size())? {
            return Err(error.into());
        }
        let (size, base) = (header.size / SECTOR * SECTOR, base.virtual_size());
        if size < base { Err(LayerError::Smaller { size, base }) } else { Ok(size) }
    }
}
