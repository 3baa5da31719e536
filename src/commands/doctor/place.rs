//! The place of pool directories, and the filesystem under it.

use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use overlay_pool::{PoolDirError, Sweep, sweep, try_pool_dir};
use rustix::fs::{CWD, FsWord, Mode, OFlags, openat, statfs, statvfs};
use rustix::io::Errno;

use super::Finding;
use crate::commands::failure;

/// Overlays grow as their guests write.
const LITTLE_SPACE: u64 = 1 << 30;

const TMPFS: FsWord = 0x0102_1994;
/// Names by the numbers in Linux' `magic.h`.
const FILESYSTEMS: [(FsWord, &str); 11] = [
    (TMPFS, "tmpfs"),
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "nfs"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
];

/// Looks at a place for pool directories. Leaves everything there as it is.
pub(super) fn look(pool_dir: &Path) -> Vec<Finding> {
    let existing = existing(pool_dir);
    vec![
        leftovers(pool_dir),
        directory(pool_dir),
        filesystem(&existing),
        unnamed_files(&existing),
        free_space(&existing),
    ]
}

/// The directory itself, or the nearest above it that is there.
fn existing(pool_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(pool_dir).unwrap_or_else(|_| pool_dir.to_owned());
    absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn leftovers(pool_dir: &Path) -> Finding {
    const WHAT: &str = "left-over directories";
    match sweep(pool_dir, Sweep::Look) {
        Ok(dead) if dead.is_empty() => Finding::ok(WHAT, "none"),
        Ok(dead) => {
            Finding::note(WHAT, format!("{} of dead owners", dead.len()), "run overlay-pool gc")
        }
        Err(error) => bad_directory(WHAT, &error),
    }
}

fn directory(pool_dir: &Path) -> Finding {
    const WHAT: &str = "pool directory";
    match try_pool_dir(pool_dir) {
        Ok(()) => Finding::ok(WHAT, format!("{}: can be made and locked", pool_dir.display())),
        Err(error) => bad_directory(WHAT, &error),
    }
}

fn bad_directory(what: &'static str, error: &PoolDirError) -> Finding {
    let found = format!("{}: {}", error.path.display(), error.source);
    Finding::bad(what, found, failure::pool_dir(error))
}

fn filesystem(directory: &Path) -> Finding {
    const WHAT: &str = "filesystem";
    let kind = match statfs(directory) {
        Ok(stat) => stat.f_type,
        Err(errno) => return Finding::note(WHAT, errno, "name another directory"),
    };
    let name = FILESYSTEMS.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
    let name = name.map_or_else(|| format!("{kind:#x}"), str::to_owned);
    let found = format!("{name}, at {}", directory.display());
    if kind == TMPFS {
        let advice = "overlays there take memory from the guests: name a directory on a disk";
        return Finding::note(WHAT, found, advice);
    }
    Finding::ok(WHAT, found)
}

fn unnamed_files(directory: &Path) -> Finding {
    const WHAT: &str = "unnamed files";
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Finding::ok(WHAT, "supported"),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Finding::note(
            WHAT,
            "not supported",
            "a process killed while it makes an overlay may leave a partial target: remove it",
        ),
        Err(errno) => Finding::note(WHAT, errno, "let this user write there"),
    }
}

fn free_space(directory: &Path) -> Finding {
    const WHAT: &str = "free space";
    let free = match statvfs(directory) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(errno) => return Finding::note(WHAT, errno, "name another directory"),
    };
    if free < LITTLE_SPACE {
        return Finding::note(WHAT, BinaryBytes(free), "make room: overlays grow as guests write");
    }
    Finding::ok(WHAT, BinaryBytes(free))
}
