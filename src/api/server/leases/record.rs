//! What is kept of one disk, and how the disk is found by it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
#[cfg(feature = "vm")]
use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};

use super::boot::Boot;
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
    /// The directory that it was put in.
    #[serde(default)]
    pub(super) directory: Option<FileId>,
    /// What its base image refers to.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) needs: BTreeSet<PathBuf>,
    /// The boot with which the filesystem that it was put on ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Boot>,
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

    /// Its base image, and what that refers to.
    pub(super) fn all_needs(&self) -> impl Iterator<Item = &PathBuf> {
        self.needs.iter().chain([&self.answer.base])
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
        self.has_its_directory()
            || self.file.is_mounted_at(&self.answer.target)
            || self.boot.as_ref().is_some_and(Boot::is_over)
    }

    /// Whether the directory is there, which another boot may have given a device of another number.
    fn has_its_directory(&self) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = self.answer.target.parent().unwrap_or(&self.answer.target);
        let found = open(parent, flags, Mode::empty()).map_err(Into::into).and_then(FileId::of);
        found.is_ok_and(|found| self.directory.as_ref().is_some_and(|known| found.is(known)))
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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use serde_json::json;

    use super::*;

    fn clone(record: &Record) -> Record {
        serde_json::from_value(serde_json::to_value(record).expect("JSON")).expect("a record")
    }

    /// Another boot may give a device another number: what tells is the directory itself.
    #[test]
    fn a_disk_is_gone_from_its_directory_whatever_its_device_s_number_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, moved) = (folder.path().join("disks/disk"), folder.path().join("moved"));
        fs::create_dir(folder.path().join("disks")).expect("a folder");
        let id_of = |path: &std::path::Path| {
            let id = FileId::of(File::open(path).expect("it opens")).expect("its id");
            serde_json::to_value(id).expect("JSON")
        };
        fs::write(&target, "a disk").expect("a disk");
        let (mut file, mut directory) = (id_of(&target), id_of(target.parent().expect("one")));
        file["device"] = json!(1);
        // Without a handle the number is what tells, and has to be the same.
        if !directory["handle"].is_null() {
            directory["device"] = json!(1);
        }
        let record: Record = serde_json::from_value(json!({
            "uid": 1, "id": "one", "aside": ".aside", "file": file, "directory": directory,
            "request": { "base": "/base", "target": target, "id": "one" },
            "answer": { "base": "/base", "target": target, "source": "pooled", "took_us": 1 },
        }))
        .expect("a record");
        fs::remove_file(&target).expect("removed");
        assert!(record.is_gone_for_good());
        // As when that filesystem isn't mounted.
        fs::rename(target.parent().expect("one"), moved).expect("moved");
        fs::create_dir(target.parent().expect("one")).expect("a folder");
        assert!(!record.is_gone_for_good());
        let record = |boot| Record { boot: Some(boot), ..clone(&record) };
        let this = Boot::now().expect("Linux says which boot it is");
        assert!(!record(this).is_gone_for_good());
        let another = serde_json::from_value(json!("another")).expect("a boot");
        assert!(record(another).is_gone_for_good(), "with its filesystem");
    }
}
