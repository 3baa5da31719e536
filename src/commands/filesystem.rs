//! Which filesystem something is on.

use std::path::Path;

use rustix::fs::{FsWord, statfs};
use rustix::io::Errno;

pub(super) const TMPFS: &str = "tmpfs";

/// Names by the numbers in Linux' `magic.h`.
const NAMES: [(FsWord, &str); 11] = [
    (0x0102_1994, TMPFS),
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

/// The filesystem's name, or its number if the name isn't known.
pub(super) fn name(path: &Path) -> Result<String, Errno> {
    let kind = statfs(path)?.f_type;
    let name = NAMES.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name);
    Ok(name.map_or_else(|| format!("{kind:#x}"), str::to_owned))
}
