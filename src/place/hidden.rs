//! Hidden files among a caller's own: each loses its name within moments, unless its maker is killed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::names::is_random;

/// No overlay takes as long to be made: what is older was left.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What a hidden file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hidden {
    /// An overlay that is being made.
    Draft,
    /// An empty file, moved to see whether it can be.
    Trial,
}

impl Hidden {
    /// A new name for one.
    pub(super) fn name(self) -> String {
        format!(".{:032x}{}", rand::random::<u128>(), self.suffix())
    }

    /// What has this name; none if no file of ours can have it.
    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Draft, Self::Trial].into_iter().find(|kind| {
            let digits = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(kind.suffix()));
            digits.is_some_and(is_random)
        })
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Draft => ".draft",
            Self::Trial => ".trial",
        }
    }
}

/// Removes from a directory of targets what this user's killed processes left under a hidden name:
/// drafts that nobody can be making any more, on a filesystem without unnamed files, and the empty
/// files of [`misfit`](super::misfit).
pub fn remove_hidden(targets: &Path) {
    let removed = File::open(targets).and_then(|directory| remove_from(&directory));
    match removed {
        Ok(0) => {}
        Ok(files) => tracing::info!(targets = %targets.display(), files, "removed what was left"),
        Err(error) => tracing::debug!(targets = %targets.display(), %error, "not looked through"),
    }
}

fn remove_from(directory: &File) -> io::Result<usize> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut removed = 0;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(kind) = name.to_str().ok().and_then(Hidden::of) else { continue };
        let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_ours = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && found.st_uid == geteuid().as_raw();
        let is_left = match kind {
            // A living process needs it under no name either.
            Hidden::Trial => found.st_size == 0,
            Hidden::Draft => {
                let changed = Duration::from_secs(u64::try_from(found.st_mtime).unwrap_or(0));
                now.saturating_sub(changed) > LONGEST
            }
        };
        if is_ours && is_left {
            remove_name(directory, name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Takes a hidden file's name away, if another process didn't.
pub(super) fn remove_name(directory: impl AsFd, name: impl rustix::path::Arg) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}
