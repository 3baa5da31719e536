//! An overlay on its way to a target.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

use super::rename::rename_new;

/// A file that gets its name when it is finished, so that a target appears complete or not at
/// all, whatever ends the process before.
///
/// Where the filesystem has no unnamed files (NFS, FUSE, 9p) the file has a hidden name beside its
/// target until then; dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    file: Arc<File>,
    target: PathBuf,
    hidden: Option<PathBuf>,
}

impl Draft {
    /// Begins a file, readable for its owner alone, that will be `target`.
    pub(crate) fn begin(target: &Path) -> io::Result<Self> {
        // The root directory has none, and is in the way.
        let Some(directory) = target.parent() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let access = OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, hidden) = match openat(CWD, directory, OFlags::TMPFILE | access, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let hidden = directory.join(format!(".{:032x}.draft", rand::random::<u128>()));
                let access = OFlags::CREATE | OFlags::EXCL | access;
                (openat(CWD, &hidden, access, mode)?, Some(hidden))
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self { file: Arc::new(fd.into()), target: target.to_owned(), hidden })
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the file its name, where nothing else has it.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match &self.hidden {
            None => name(&self.file, &self.target)?,
            Some(hidden) => rename_new(CWD, hidden.as_os_str(), &self.target)?,
        }
        self.hidden = None;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = std::fs::remove_file(hidden);
        }
    }
}

fn name(file: &File, target: &Path) -> io::Result<()> {
    match linkat(file, c"", CWD, target, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that takes a capability, which linking through /proc does not.
        Err(Errno::NOENT) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(linkat(CWD, path, CWD, target, AtFlags::SYMLINK_FOLLOW)?)
        }
        result => Ok(result?),
    }
}
