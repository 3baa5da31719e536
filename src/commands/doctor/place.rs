//! The place of pool directories, and the filesystem under it.

use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;
use overlay_pool::PREFIX;
use overlay_pool::place::{Misfit, PlaceError, Sweep, can_confine, misfit, try_directory};
use rustix::fs::{CWD, Mode, OFlags, openat, statvfs};
use rustix::io::Errno;

use super::Finding;
use crate::commands::gc::leftovers as leftovers_in;
use crate::commands::{failure, filesystem};

/// Overlays grow as their guests write.
const LITTLE_SPACE: u64 = 1 << 30;

/// Looks at a place for pool directories. Leaves everything there as it is.
pub(super) fn look(pool_dir: &Path) -> Vec<Finding> {
    let existing = existing(pool_dir);
    vec![
        leftovers(pool_dir),
        directory(pool_dir),
        filesystem(&existing),
        unnamed_files(&existing),
        free_space(&existing),
        confinement(),
    ]
}

/// The directory itself, or the nearest above it that is there.
fn existing(pool_dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(pool_dir).unwrap_or_else(|_| pool_dir.to_owned());
    absolute.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn leftovers(pool_dir: &Path) -> Finding {
    const WHAT: &str = "left-over directories";
    match leftovers_in(pool_dir, Sweep::Look) {
        Ok(dead) if dead.is_empty() => Finding::ok(WHAT, "none"),
        Ok(dead) => {
            Finding::note(WHAT, format!("{} of dead owners", dead.len()), "run overlay-pool gc")
        }
        Err(error) => bad_directory(WHAT, &error),
    }
}

fn directory(pool_dir: &Path) -> Finding {
    const WHAT: &str = "pool directory";
    match try_directory(pool_dir, PREFIX) {
        Ok(()) => Finding::ok(WHAT, format!("{}: can be made and locked", pool_dir.display())),
        Err(error) => bad_directory(WHAT, &error),
    }
}

/// Looks whether overlays from a place for pool directories can be handed over in a directory.
pub(super) fn targets(pool_dir: &Path, targets: &Path) -> Finding {
    const WHAT: &str = "targets";
    match misfit(pool_dir, PREFIX, targets) {
        Ok(None) => {
            Finding::ok(WHAT, format!("{}: goes with the pool directory", targets.display()))
        }
        Ok(Some(misfit)) => {
            let advice = match misfit {
                Misfit::Apart { .. } => "put the pool directory beside it",
                _ => "give both the same with chattr",
            };
            Finding::note(WHAT, format!("{}: {misfit}", targets.display()), advice)
        }
        Err((path, error)) => {
            Finding::bad(WHAT, format!("{}: {error}", path.display()), failure::system(&error))
        }
    }
}

fn bad_directory(what: &'static str, error: &PlaceError) -> Finding {
    let found = format!("{}: {}", error.path.display(), error.source);
    Finding::bad(what, found, failure::pool_dir(error))
}

fn filesystem(directory: &Path) -> Finding {
    const WHAT: &str = "filesystem";
    let name = match filesystem::name(directory) {
        Ok(name) => name,
        Err(errno) => return Finding::note(WHAT, errno, "name another directory"),
    };
    let found = format!("{name}, at {}", directory.display());
    if name == filesystem::TMPFS {
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
            "a process killed while it makes an overlay may leave a hidden .draft file there; serve \
             removes those of its --targets when it starts, after an hour",
        ),
        Err(errno) => Finding::note(WHAT, errno, "let this user write there"),
    }
}

fn confinement() -> Finding {
    const WHAT: &str = "openat2";
    if can_confine() {
        return Finding::ok(WHAT, "supported");
    }
    let advice = "serve needs Linux 5.6 or later, and a sandbox (seccomp) that allows openat2";
    Finding::note(WHAT, "not supported", advice)
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
