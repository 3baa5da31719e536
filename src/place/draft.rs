//! A file on its way to a target.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, unlinkat};
use rustix::io::Errno;

use super::entry::make_private;
use super::hidden::Hidden;
use super::rename::rename_new;
use super::target::Spot;
use crate::paths::link_to;

/// Tells what is in the way of a file at a target, as far as that can be told before: one is made
/// there, and gets no name.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`] if something is there, and those of the system.
pub fn try_target(target: &Path) -> io::Result<()> {
    let spot = Spot::at(target)?;
    if spot.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Draft::begin(&spot).map(drop)
}

/// A file that gets its name when it is finished, so that a target appears complete or not at
/// all, whatever ends the process before.
///
/// If the filesystem has no unnamed files (NFS, FUSE, 9p), the file has a hidden name beside its
/// target until then; dropped unfinished, it is removed, and if its maker is killed, later.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    file: Arc<File>,
    spot: &'a Spot,
    hidden: Option<String>,
}

impl<'a> Draft<'a> {
    /// Begins a file, readable for its owner alone, that will be at the spot.
    pub(crate) fn begin(spot: &'a Spot) -> io::Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        let access = OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, hidden) = match openat(spot.directory(), ".", OFlags::TMPFILE | access, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let hidden = Hidden::Draft.name();
                let access = OFlags::CREATE | OFlags::EXCL | access;
                (openat(spot.directory(), &hidden, access, mode)?, Some(hidden))
            }
            Err(errno) => return Err(errno.into()),
        };
        let draft = Self { file: Arc::new(fd.into()), spot, hidden };
        make_private(&draft.file)?;
        Ok(draft)
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the file its name, if nothing else has it.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match &self.hidden {
            Some(hidden) => rename_new(self.spot.directory(), hidden.as_ref(), self.spot)?,
            None => name(&self.file, self.spot)?,
        }
        self.hidden = None;
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _ = unlinkat(self.spot.directory(), hidden, AtFlags::empty());
        }
    }
}

fn name(file: &File, spot: &Spot) -> io::Result<()> {
    let (at, name) = (spot.directory(), spot.name());
    match linkat(file, c"", at, name, AtFlags::EMPTY_PATH) {
        // Before Linux 6.10 that takes a capability, which linking through /proc does not.
        Err(Errno::NOENT) => Ok(linkat(CWD, link_to(file), at, name, AtFlags::SYMLINK_FOLLOW)?),
        result => Ok(result?),
    }
}
