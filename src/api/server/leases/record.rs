//! What is kept of one disk, and how the disk is found by it.

use std::ffi::OsStr;
#[cfg(feature = "vm")]
use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};

use super::key::Key;
use crate::api::server::access::{Access, AccessError, TARGET};
use crate::api::server::problem::is_missing;
use crate::api::wire::{AcquireAnswer, AcquireRequest, Label, Lease};
use crate::place::{FileId, Spot, Target, finish_removal, remove_only};

/// A disk that was acquired with an id.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose it is.
    pub(super) uid: u32,
    /// What its user calls it.
    pub(super) id: Label,
    pub(super) request: AcquireRequest,
    pub(super) answer: AcquireAnswer,
    pub(super) file: FileId,
    /// What the disk is called, beside its target, while it is removed.
    pub(super) aside: String,
}

impl Record {
    pub(super) fn key(&self) -> Key {
        Key { uid: self.uid, id: self.id.clone() }
    }

    /// What its file is called. A label has no character that a file's name can't have.
    pub(super) fn name(&self) -> String {
        name(&self.key())
    }

    pub(super) fn lease(&self) -> Lease {
        let AcquireAnswer { source, base, target, .. } = self.answer.clone();
        let owner = self.request.owner.clone();
        Lease { id: self.id.clone(), owner, uid: self.uid, source, base, target }
    }

    /// Whether the disk is where it was put. A removal that was cut off is finished.
    pub(super) fn is_there(&self, access: &Access) -> Result<bool, AccessError> {
        let Some(spot) = self.spot(access)? else { return Ok(false) };
        self.is_at(&spot).map_err(|error| self.failed(error))
    }

    fn is_at(&self, spot: &Spot) -> io::Result<bool> {
        finish_removal(spot, &self.file, OsStr::new(&self.aside))?;
        Ok(FileId::at(spot)?.is_some_and(|found| found.is(&self.file)))
    }

    /// Whether a disk that isn't where it was put is gone for good. One on a filesystem that isn't
    /// mounted is there again when that is.
    pub(super) fn is_gone_for_good(&self) -> bool {
        self.file.is_mounted_at(&self.answer.target)
    }

    /// Opens the disk for reading and writing; none if it isn't where it was put.
    #[cfg(feature = "vm")]
    pub(super) fn open(&self, access: &Access) -> Result<Option<File>, AccessError> {
        let Some(spot) = self.spot(access)? else { return Ok(None) };
        let open = || {
            let opened = if self.is_at(&spot)? { spot.open_file()? } else { None };
            // Another one may have come there meanwhile.
            match opened {
                Some(file) if FileId::of(&file)?.is(&self.file) => Ok(Some(file)),
                _ => Ok(None),
            }
        };
        open().map_err(|error| self.failed(error))
    }

    /// Removes the disk, if it is where it was put, and nothing else.
    pub(super) fn remove(&self, access: &Access) -> Result<bool, AccessError> {
        let Some(spot) = self.spot(access)? else { return Ok(false) };
        self.remove_at(&spot)
    }

    /// Removes the disk from where it was put, which is open.
    pub(super) fn remove_at(&self, spot: &Spot) -> Result<bool, AccessError> {
        let removed = remove_only(spot, &self.file, OsStr::new(&self.aside));
        removed.map_err(|error| self.failed(error))
    }

    /// Where it was put; none if the directory is gone.
    fn spot(&self, access: &Access) -> Result<Option<Spot>, AccessError> {
        let path = &self.request.target;
        let (directory, real) = match access.target(path) {
            Err(AccessError::Io { source, .. }) if is_missing(&source) => return Ok(None),
            result => result?,
        };
        let opened = Target::found_at(real, directory, path.clone()).open();
        opened.map(Some).map_err(|(_, error)| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> AccessError {
        AccessError::io(TARGET, &self.request.target, error)
    }
}

/// What the file of a record is called.
pub(super) fn name(Key { uid, id }: &Key) -> String {
    format!("{uid}-{id}")
}
