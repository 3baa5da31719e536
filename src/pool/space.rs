//! The room on a filesystem.

use std::io;

use super::directory::Directory;

/// What is free for this user on the filesystem of a pool directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free bytes.
    pub bytes_free: u64,
    /// How many more files there may be; none where the filesystem sets no limit.
    pub inodes_free: Option<u64>,
}

impl Space {
    pub(crate) fn of(directory: &Directory) -> io::Result<Self> {
        let found = directory.statvfs()?;
        Ok(Self {
            bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
            inodes_free: (found.f_files > 0).then_some(found.f_favail),
        })
    }
}
