//! A blob that is being received: hashed while it is written, and taken up again where it ended.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::digest::Digest;
use super::error::ImageError;

/// How often is looked whether another process has finished the same blob.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A file that this process alone writes. Dropped, it stays, for whoever goes on with it.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

impl Partial {
    /// Opens and locks the file at `path`, and reads what an earlier one left there of a blob of
    /// `size` bytes; none while another process has it.
    pub(super) fn open(path: &Path, size: u64) -> Result<Option<Self>, ImageError> {
        let opened = || {
            let mut options = OpenOptions::new();
            options.read(true).append(true).create(true).mode(0o600);
            let file = options.open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Ok(None),
                locked => locked?,
            }
            // Whoever had it may have moved or removed it.
            let ours = file.metadata()?;
            let is_there = fs::symlink_metadata(path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
            if !is_there {
                return Ok(None);
            }
            let mut partial =
                Self { path: path.to_owned(), file, hasher: Sha256::new(), length: 0 };
            if ours.len() > size {
                partial.restart()?;
            }
            partial.hash_what_is_there()?;
            Ok(Some(partial))
        };
        opened().map_err(ImageError::file(path))
    }

    fn hash_what_is_there(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                read => {
                    self.hasher.update(&buffer[..read]);
                    self.length += read as u64;
                }
            }
        }
    }

    /// Begins again from nothing.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// How many bytes are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // What is written in part is in the file, and is hashed by whoever opens it next.
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The digest of what is there.
    pub(super) fn digest(&self) -> Digest {
        Digest::by(self.hasher.clone())
    }

    /// Removes it, since it is of no more use.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}
