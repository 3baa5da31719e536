//! Saved states: machines that have booted, to be resumed on fresh disks.
//!
//! A state lies in a directory of its own, named by its key, beside a description that holds all
//! that the key stands for and the state's checksum. It appears complete or not at all. QEMU
//! itself doesn't refuse a state of another machine or disk; so everything that matters is in
//! the key.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::images::hex;

/// The states that are kept, newest first: each takes 60 MiB of disk and more.
const KEPT: usize = 8;
/// How much is read at once. What is all zero counts the same whether it takes disk or not.
const BLOCK: usize = 64 << 10;
const DESCRIPTION: &str = "state.json";
const STATE: &str = "state";

/// Where saved states are kept.
#[derive(Debug)]
pub(super) struct SavedStates {
    directory: PathBuf,
}

/// A state that was saved for a key.
#[derive(Debug)]
pub(super) struct SavedState {
    path: PathBuf,
    description: Description,
}

/// A state that is being saved. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    /// All that makes the state fit.
    key: Value,
    size: u64,
    checksum: u32,
}

impl SavedStates {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The state for this key; one whose description says another key is refused.
    pub(super) fn find(&self, key: &Value) -> Option<SavedState> {
        let path = self.directory.join(name(key));
        let text = fs::read(path.join(DESCRIPTION)).ok()?;
        let description: Description = serde_json::from_slice(&text).ok()?;
        if description.key != *key {
            tracing::warn!(state = %path.display(), "saved for another key: refused");
            return None;
        }
        Some(SavedState { path, description })
    }

    /// Begins a state: an empty file for QEMU to fill, readable for its owner alone.
    pub(super) fn begin(&self) -> io::Result<Unfinished> {
        let path = self.directory.join(format!("new-{:032x}", rand::random::<u128>()));
        DirBuilder::new().mode(0o700).recursive(true).create(&self.directory)?;
        DirBuilder::new().mode(0o700).create(&path)?;
        let unfinished = Unfinished { path };
        private(&unfinished.file())?;
        Ok(unfinished)
    }

    /// Gives a state that was saved its name, in the place of one that is there.
    pub(super) fn finish(&self, unfinished: &Unfinished, key: Value) -> io::Result<()> {
        let (size, checksum) = checksum(&unfinished.file())?;
        let path = self.directory.join(name(&key));
        let description = serde_json::to_vec(&Description { key, size, checksum })?;
        private(&unfinished.path.join(DESCRIPTION))?.write_all(&description)?;
        remove(&path)?;
        match fs::rename(&unfinished.path, &path) {
            // Another process was quicker: its state is as good.
            Err(error) if is_taken(&error) => {}
            result => result?,
        }
        self.prune();
        Ok(())
    }

    /// Removes the oldest states.
    fn prune(&self) {
        let Ok(entries) = self.directory.read_dir() else { return };
        let mut states: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        states.sort_by(|one, other| other.cmp(one));
        for (_, path) in states.iter().skip(KEPT) {
            if let Err(error) = remove(path) {
                tracing::warn!(state = %path.display(), %error, "not removed");
            }
        }
    }
}

impl Unfinished {
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(STATE)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl SavedState {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// Whether the state has the bytes that were saved.
    pub(super) async fn is_sound(&self) -> bool {
        let file = self.file();
        let found = tokio::task::spawn_blocking(move || checksum(&file)).await;
        let expected = (self.description.size, self.description.checksum);
        matches!(found, Ok(Ok(found)) if found == expected)
    }

    pub(super) fn remove(&self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(state = %self.path.display(), %error, "not removed");
        }
    }
}

/// A key's short form.
fn name(key: &Value) -> String {
    hex(&Sha256::digest(key.to_string()))[..32].to_owned()
}

fn private(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
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

/// A file's length, and a checksum of its blocks that aren't all zero and of where they are.
fn checksum(path: &Path) -> io::Result<(u64, u32)> {
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
    Ok((size, hash.finalize()))
}

/// Where the next bytes are that take disk.
fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn saved(states: &SavedStates, key: &Value, bytes: &[u8]) {
        let unfinished = states.begin().expect("a place");
        fs::write(unfinished.file(), bytes).expect("a state");
        states.finish(&unfinished, key.clone()).expect("saved");
    }

    #[rstest]
    fn a_state_is_found_by_its_key_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let states = SavedStates::new(dir.path().join("states"));
        saved(&states, &json!({ "memory": 128 }), b"state");
        assert!(states.find(&json!({ "memory": 256 })).is_none());
        let state = states.find(&json!({ "memory": 128 })).expect("found");
        // A state that got another's name is refused.
        let other = states.directory.join(name(&json!({ "memory": 256 })));
        fs::rename(state.path(), other).expect("renamed");
        assert!(states.find(&json!({ "memory": 256 })).is_none());
    }

    #[rstest]
    #[case::first(0)]
    #[case::last(3 * BLOCK - 1)]
    #[case::in_zeros(BLOCK + 5)]
    fn any_changed_byte_is_seen(#[case] at: usize) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("state");
        let mut bytes = [vec![1; BLOCK], vec![0; BLOCK], vec![2; BLOCK]].concat();
        fs::write(&path, &bytes).expect("a state");
        let before = checksum(&path).expect("a checksum");
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("a state");
        assert_ne!(checksum(&path).expect("a checksum"), before);
    }

    #[rstest]
    fn holes_and_zeros_count_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let (dense, sparse) = (dir.path().join("dense"), dir.path().join("sparse"));
        fs::write(&dense, [vec![0; 3 * BLOCK], vec![7; 10], vec![0; BLOCK]].concat()).expect("it");
        let mut file = File::create(&sparse).expect("a file");
        file.seek(SeekFrom::Start(3 * BLOCK as u64)).expect("a place");
        file.write_all(&[7; 10]).expect("bytes");
        file.set_len(4 * BLOCK as u64 + 10).expect("a length");
        assert_eq!(checksum(&dense).expect("dense"), checksum(&sparse).expect("sparse"));
    }

    #[rstest]
    fn old_states_go() {
        let dir = tempfile::tempdir().expect("a folder");
        let states = SavedStates::new(dir.path().to_owned());
        for number in 0..KEPT + 3 {
            saved(&states, &json!(number), b"state");
        }
        assert_eq!(dir.path().read_dir().expect("a folder").count(), KEPT);
        assert!(states.find(&json!(KEPT + 2)).is_some(), "the newest stays");
    }
}
