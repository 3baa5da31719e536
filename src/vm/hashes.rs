//! The contents of files, told by their hash.
//!
//! A base image has hundreds of megabytes, so a hash is remembered by the file's identity: what
//! changes on every write (its change time too, which nobody can set) and stays otherwise.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{DRAFT_PREFIX, private_file};
use crate::hex::hex;
use crate::place::Directory;

/// How many hashes are remembered. If there are more, all are forgotten.
const KEPT: usize = 256;
/// A file that changed less than so many seconds ago may change again without a trace in its times.
const YOUNG: i64 = 2;
/// A list of more bytes isn't ours.
const MAX_LIST: u64 = 1 << 20;

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Mark(String);

impl Mark {
    /// Reads the mark of the file at `path`, following symbolic links.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Mark {
    fn from(file: &Metadata) -> Self {
        let (dev, ino, size) = (file.dev(), file.ino(), file.size());
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
        let [mtime, mtime_nsec, ctime, ctime_nsec] = times;
        Self(format!("{dev}:{ino}:{size}:{mtime}.{mtime_nsec:09}:{ctime}.{ctime_nsec:09}"))
    }
}

/// The hashes that are known, in memory and in a file.
#[derive(Debug)]
pub(super) struct Hashes {
    list: PathBuf,
    known: Mutex<BTreeMap<Mark, String>>,
}

impl Hashes {
    /// Takes the hashes that are remembered in `list`, if it is there and good.
    pub(super) fn new(list: PathBuf) -> Self {
        let mut text = String::new();
        let read = File::open(&list).and_then(|file| file.take(MAX_LIST).read_to_string(&mut text));
        let known = read.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { list, known: Mutex::new(known) }
    }

    /// The SHA-256 of a file's content, in hexadecimal digits. Blocks while it reads the file,
    /// unless it knows it.
    pub(super) fn of(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let mark = Mark::from(&file.metadata()?);
        if let Some(hash) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&mark) {
            return Ok(hash.clone());
        }
        let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let hash = sha256(&mut file)?;
        let after = file.metadata()?;
        let is_old = i64::try_from(begin).is_ok_and(|begin| after.ctime() + YOUNG < begin);
        if is_old && Mark::from(&after) == mark {
            self.remember(mark, &hash);
        }
        Ok(hash)
    }

    fn remember(&self, mark: Mark, hash: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(mark, hash.to_owned());
        if let Err(error) = self.write(&known) {
            tracing::debug!(list = %self.list.display(), %error, "hashes not remembered");
        }
    }

    fn write(&self, known: &BTreeMap<Mark, String>) -> io::Result<()> {
        let directory = self.list.parent().unwrap_or(Path::new("."));
        // Swept, if this process is killed.
        let drafts = Directory::create(directory, DRAFT_PREFIX)?;
        let draft = drafts.path().join("hashes.json");
        let mut file = private_file::create(&draft)?;
        file.write_all(&serde_json::to_vec(known)?)?;
        fs::rename(draft, &self.list)
    }
}

/// The SHA-256 of what a file has from here on, in hexadecimal digits.
pub(super) fn sha256(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::Duration;

    use rstest::rstest;

    use super::*;

    /// The same inode, size and modification time, and other bytes.
    #[rstest]
    fn a_file_that_was_changed_in_place_is_another() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "one").expect("a file");
        let hashes = Hashes::new(dir.path().join("hashes.json"));
        let long_ago = SystemTime::now() - Duration::from_secs(1000);
        let set = || {
            let file = File::options().write(true).open(&path).expect("the file");
            file.set_times(FileTimes::new().set_modified(long_ago)).expect("its time");
        };
        set();
        let one = hashes.of(&path).expect("a hash");
        assert_eq!(one, hashes.of(&path).expect("a hash"));
        fs::write(&path, "two").expect("a file");
        set();
        assert_ne!(one, hashes.of(&path).expect("a hash"));
    }

    #[rstest]
    fn what_is_remembered_is_not_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, list) = (dir.path().join("file"), dir.path().join("hashes.json"));
        fs::write(&path, "one").expect("a file");
        let mark = Mark::of(&path).expect("a mark");
        Hashes::new(list.clone()).remember(mark, "remembered");
        assert_eq!(Hashes::new(list.clone()).of(&path).expect("a hash"), "remembered");
        fs::write(&list, "no list").expect("a file");
        assert_ne!(Hashes::new(list).of(&path).expect("a hash"), "remembered");
    }

    /// Within its youth a file may change again without a trace in its times.
    #[rstest]
    fn what_changed_just_now_is_remembered_later() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, list) = (dir.path().join("file"), dir.path().join("hashes.json"));
        fs::write(&path, "one").expect("a file");
        let changed = fs::metadata(&path).expect("its times").ctime();
        let hashes = Hashes::new(list.clone());
        let one = hashes.of(&path).expect("a hash");
        while !list.exists() {
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(hashes.of(&path).expect("a hash"), one);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        assert!(i64::try_from(now).expect("a time") > changed + YOUNG, "{now} {changed}");
    }
}
