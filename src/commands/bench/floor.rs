//! The floor: the system calls that a pool can't do without, and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use overlay_pool::image::Overlay;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

/// A directory of finished overlays that nobody keeps a pool of.
#[derive(Debug)]
pub(super) struct Floor(OwnedFd);

impl Floor {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Makes an overlay: an exclusive create, the native creator's writes, its `ftruncate`.
    pub(super) fn create(&self, name: &str, overlay: &Overlay) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file: File = openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?.into();
        for extent in overlay.extents() {
            file.write_all_at(&extent.bytes, extent.offset)?;
        }
        file.set_len(overlay.file_len())
    }

    /// Hands an overlay over: one `renameat2`.
    pub(super) fn rename(&self, name: &str, target: &Path) -> io::Result<()> {
        Ok(renameat_with(&self.0, name, CWD, target, RenameFlags::NOREPLACE)?)
    }
}
