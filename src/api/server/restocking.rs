//! Whether overlays are made ahead, and what room there is for them.

use rustix::fs::statvfs;

use crate::pool::OverlayPool;

/// Whether overlays are made ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restocking {
    /// They are.
    On,
    /// The pool is stopped, or makes none ahead.
    Off,
    /// The pool was drained.
    Drained,
    /// There is less space than shall be left free.
    LowSpace,
}

impl Restocking {
    pub(super) fn of(pool: &OverlayPool) -> Self {
        let min_free = pool.config().min_free;
        if pool.is_paused() {
            Self::Drained
        } else if pool.directory().is_none() {
            Self::Off
        } else if Space::of(pool).is_some_and(|space| space.bytes_free < min_free) {
            Self::LowSpace
        } else {
            Self::On
        }
    }
}

/// What is free for this user on the filesystem of a pool's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) bytes_free: u64,
    /// How many more files there may be; none if the filesystem sets no limit.
    pub(super) inodes_free: Option<u64>,
}

impl Space {
    /// None if the pool has no directory, or it can't be told.
    pub(super) fn of(pool: &OverlayPool) -> Option<Self> {
        let found = statvfs(pool.directory()?).ok()?;
        Some(Self {
            bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
            inodes_free: (found.f_files > 0).then_some(found.f_favail),
        })
    }
}
