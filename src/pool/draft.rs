//! An overlay on its way to a target.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;

/// A file that gets its name when it is finished, so that a target appears complete or not at
/// all, whatever ends the process before.
///
/// Where the filesystem has no unnamed files (NFS, FUSE, 9p) the file has its name from the
/// start; dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    file: Arc<File>,
    target: PathBuf,
    named: bool,
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
        let (fd, named) = match openat(CWD, directory, OFlags::TMPFILE | access, mode) {
            Ok(fd) => (fd, false),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                (openat(CWD, target, OFlags::CREATE | OFlags::EXCL | access, mode)?, true)
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self { file: Arc::new(fd.into()), target: target.to_owned(), named })
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the file its name, where nothing else has it.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if !self.named {
            name(&self.file, &self.target)?;
        }
        self.named = false;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.named {
            let _ = std::fs::remove_file(&self.target);
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
