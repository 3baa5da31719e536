//! An overlay on its way to a target.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat};
use rustix::io::Errno;

use super::rename::rename_new;
use super::target::Target;

/// A file that gets its name when it is finished, so that a target appears complete or not at
/// all, whatever ends the process before.
///
/// Where the filesystem has no unnamed files (NFS, FUSE, 9p) the file has a hidden name beside its
/// target until then; dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    file: Arc<File>,
    target: &'a Target,
    /// From where the target's own path is taken.
    hidden: Option<PathBuf>,
}

impl<'a> Draft<'a> {
    /// Begins a file, readable for its owner alone, that will be `target`.
    pub(crate) fn begin(target: &'a Target) -> io::Result<Self> {
        // The root directory has none, and is in the way.
        let Some((at, directory)) = target.directory() else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let access = OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, hidden) = match openat(at, directory, OFlags::TMPFILE | access, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let hidden = directory.join(format!(".{:032x}.draft", rand::random::<u128>()));
                let access = OFlags::CREATE | OFlags::EXCL | access;
                (openat(at, &hidden, access, mode)?, Some(hidden))
            }
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self { file: Arc::new(fd.into()), target, hidden })
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the file its name, where nothing else has it.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match (&self.hidden, self.target.directory()) {
            (Some(hidden), Some((at, _))) => rename_new(at, hidden, self.target)?,
            _ => name(&self.file, self.target)?,
        }
        self.hidden = None;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let (Some(hidden), Some((at, _))) = (&self.hidden, self.target.directory()) {
            let _ = unlinkat(at, hidden, AtFlags::empty());
        }
    }
}

fn name(file: &File, target: &Target) -> io::Result<()> {
    let (at, name) = target.place();
    match linkat(file, c"", at, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that takes a capability, which linking through /proc does not.
        Err(Errno::NOENT) => {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(linkat(CWD, path, at, name, AtFlags::SYMLINK_FOLLOW)?)
        }
        result => Ok(result?),
    }
}
