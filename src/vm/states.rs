//! Saved states: machines that have booted, to be resumed on fresh disks.
//!
//! A state lies in a directory of its own, named by its key: the RAM, which all machines resumed
//! from it map privately; the devices; and a description that holds all that the key stands for
//! and the checksums. It appears complete or not at all, and is never changed afterwards. QEMU
//! itself doesn't refuse a state of another machine or disk; so everything that matters is in the
//! key.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::hashes::Mark;
use super::machine::StateFiles;
use super::{DRAFT_PREFIX, newest, private_file};
use crate::hex::hex;
use crate::place::{Directory, remove_leftovers};

/// The states that are kept, newest first: each takes 60 MiB of disk and more.
const KEPT: usize = 8;
/// How much is read at once. What is all zero counts the same whether it takes disk or not.
const BLOCK: usize = 64 << 10;
/// A description of more bytes isn't one.
const MAX_DESCRIPTION: u64 = 1 << 20;
const DESCRIPTION: &str = "state.json";
const RAM: &str = "ram";
const DEVICES: &str = "devices";

/// Where saved states are kept.
#[derive(Debug)]
pub(super) struct SavedStates {
    directory: PathBuf,
    /// The group of another user's QEMU, which maps the RAM.
    group: Option<u32>,
    /// The files that this process has found sound, as they were then.
    sound: Mutex<HashMap<PathBuf, Mark>>,
}

/// A state that was saved for a key.
#[derive(Clone, Debug)]
pub(super) struct SavedState {
    path: PathBuf,
    description: Description,
}

/// A state that is being saved. Dropped unfinished, it is removed; finished, it is elsewhere.
#[derive(Debug)]
pub(super) struct Draft(Directory);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    /// All that makes the state fit.
    key: Value,
    ram: Checksum,
    devices: Checksum,
}

/// A file's length, and a checksum of its blocks that aren't all zero and of where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Checksum {
    size: u64,
    crc32: u32,
}

impl SavedStates {
    /// Takes the directory if nobody else may change what is in it. Makes it if it is missing.
    pub(super) fn open(directory: PathBuf, group: Option<u32>) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
        if !is_private(&fs::metadata(&directory)?) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "another user may change this directory; let it belong to this user, mode 0700",
            ));
        }
        Ok(Self { directory, group, sound: Mutex::default() })
    }

    /// The state for this key, if it is this user's; one whose description says another key is
    /// refused.
    pub(super) fn find(&self, key: &Value) -> Option<SavedState> {
        let path = self.directory.join(name(key));
        let mut text = Vec::new();
        let file = File::open(path.join(DESCRIPTION)).ok()?;
        file.take(MAX_DESCRIPTION).read_to_end(&mut text).ok()?;
        let description: Description = serde_json::from_slice(&text).ok()?;
        let refuse = |why| {
            tracing::warn!(state = %path.display(), "{why}: refused");
            None
        };
        if description.key != *key {
            return refuse("saved for another key");
        }
        let ours = [&path, &path.join(RAM), &path.join(DEVICES), &path.join(DESCRIPTION)];
        if !ours.iter().all(|path| path.symlink_metadata().is_ok_and(|file| is_private(&file))) {
            return refuse("another user may have changed it");
        }
        let state = SavedState { path, description };
        self.admit(&state.ram(), 0o440).is_ok().then_some(state)
    }

    /// Lets the group read a file, or write to it too; nobody needs a right to the directory.
    fn admit(&self, file: &Path, mode: u32) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        let found = file.symlink_metadata()?;
        if (found.gid(), found.mode() & 0o7777) != (group, mode) {
            chown(file, None, Some(group))?;
            fs::set_permissions(file, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Whether the state has the bytes that were saved. Blocks while it reads them all, which it
    /// does once.
    pub(super) fn is_sound(&self, state: &SavedState) -> bool {
        let Description { ram, devices, .. } = state.description;
        let is_sound = |path: PathBuf, expected| {
            let Ok(mark) = Mark::of(&path) else { return false };
            if self.sound().get(&path) == Some(&mark) {
                return true;
            }
            let sound = Checksum::of(&path).is_ok_and(|found| found == expected);
            if sound {
                self.sound().insert(path, mark);
            }
            sound
        };
        is_sound(state.ram(), ram) && is_sound(state.devices(), devices)
    }

    fn sound(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Mark>> {
        self.sound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a state: empty files for QEMU to fill, readable for their owner alone.
    pub(super) fn begin(&self) -> io::Result<Draft> {
        self.prune();
        let draft = Draft(Directory::create(&self.directory, DRAFT_PREFIX)?);
        private_file::create(&draft.ram())?;
        private_file::create(&draft.devices())?;
        self.admit(&draft.ram(), 0o660)?;
        Ok(draft)
    }

    /// Gives a state that was saved its name, in the place of one that is no good.
    pub(super) fn finish(&self, draft: &Draft, key: Value) -> io::Result<()> {
        let path = self.directory.join(name(&key));
        let (ram, devices) = (Checksum::of(&draft.ram())?, Checksum::of(&draft.devices())?);
        let description = Description { key, ram, devices };
        let text = serde_json::to_vec(&description)?;
        private_file::create(&draft.0.path().join(DESCRIPTION))?.write_all(&text)?;
        for file in [RAM, DEVICES, DESCRIPTION] {
            fs::set_permissions(draft.0.path().join(file), Permissions::from_mode(0o400))?;
        }
        self.admit(&draft.ram(), 0o440)?;
        match fs::rename(draft.0.path(), &path) {
            Err(error) if is_taken(&error) => {
                // If another was quicker, VMs may be coming to life on its state.
                if !self.find(&description.key).is_some_and(|state| self.is_sound(&state)) {
                    remove(&path)?;
                    fs::rename(draft.0.path(), &path)?;
                }
            }
            result => result?,
        }
        self.prune();
        Ok(())
    }

    /// Removes the oldest states, and drafts whose makers are dead.
    fn prune(&self) {
        let states = newest::prune(&self.directory, KEPT, |name| {
            name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if let Err(error) = states {
            tracing::warn!(states = %self.directory.display(), %error, "not pruned");
        }
        remove_leftovers(&self.directory, DRAFT_PREFIX);
    }
}

impl Draft {
    pub(super) fn files(&self) -> StateFiles {
        StateFiles { ram: self.ram(), devices: self.devices() }
    }

    fn ram(&self) -> PathBuf {
        self.0.path().join(RAM)
    }

    fn devices(&self) -> PathBuf {
        self.0.path().join(DEVICES)
    }
}

impl SavedState {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn files(&self) -> StateFiles {
        StateFiles { ram: self.ram(), devices: self.devices() }
    }

    fn ram(&self) -> PathBuf {
        self.path.join(RAM)
    }

    fn devices(&self) -> PathBuf {
        self.path.join(DEVICES)
    }

    pub(super) fn remove(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(state = %self.path.display(), %error, "not removed");
        }
    }
}

/// How long a state's name is.
const NAME: usize = 32;

/// A key's short form.
fn name(key: &Value) -> String {
    hex(&Sha256::digest(key.to_string()))[..NAME].to_owned()
}

/// Whether a file or directory is this user's, and no link, and nobody else may write to it.
fn is_private(file: &fs::Metadata) -> bool {
    !file.is_symlink() && file.uid() == geteuid().as_raw() && file.mode() & 0o022 == 0
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTEMPTY | Errno::EXIST))
}

impl Checksum {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut hash = crc32fast::Hasher::new();
        let mut block = vec![0; BLOCK];
        let mut offset = 0;
        while let Some(data) = next_data(&file, offset)? {
            offset = data / BLOCK as u64 * BLOCK as u64;
            file.seek(SeekFrom::Start(offset))?;
            let mut read = 0;
            while read < BLOCK {
                match file.read(&mut block[read..])? {
                    0 => break,
                    more => read += more,
                }
            }
            if block[..read].iter().any(|byte| *byte != 0) {
                hash.update(&offset.to_le_bytes());
                hash.update(&block[..read]);
            }
            offset += BLOCK as u64;
        }
        Ok(Self { size, crc32: hash.finalize() })
    }
}

/// Where the next bytes are that take disk.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
