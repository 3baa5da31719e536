//! A run of the host from its start to its end, with which what is in its memory goes.

use std::fs::read_to_string;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FsWord, fstatfs};
use serde::{Deserialize, Serialize};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC`, statfs(2).
const IN_MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// A word of its own for each boot, random(4).
const FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot(String);

impl Boot {
    /// This one, if the system says.
    pub(super) fn now() -> Option<Self> {
        read_to_string(FILE).ok().map(|id| Self(id.trim_end().to_owned()))
    }

    /// The one with which a directory's filesystem ends; none if it outlives it.
    pub(super) fn ending(directory: impl AsFd) -> io::Result<Option<Self>> {
        let is_in_memory = IN_MEMORY.contains(&fstatfs(directory)?.f_type);
        Ok(is_in_memory.then(Self::now).flatten())
    }

    /// Whether the host was started again since.
    pub(super) fn is_over(&self) -> bool {
        Self::now().is_some_and(|now| now != *self)
    }
}
