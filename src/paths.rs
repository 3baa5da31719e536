//! Paths as text, which has no bytes that aren't UTF-8; which part of one is missing; and those of
//! open files.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, readlinkat};
use rustix::io::Errno;

/// How many symbolic links are followed on the way to a file, as by the kernel.
pub(crate) const MAX_LINKS: usize = 40;

/// The path with each byte that isn't UTF-8 as `\xNN`, and the rest as `valid` writes it.
#[must_use]
pub fn text<T: AsRef<str>>(path: &Path, valid: impl Fn(&str) -> T) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text += valid(chunk.valid()).as_ref();
        text.extend(chunk.invalid().iter().map(|byte| format!(r"\x{byte:02x}")));
    }
    text
}

/// Where an open file is.
pub(crate) fn of_open(file: impl AsFd) -> Result<PathBuf, Errno> {
    let path = readlinkat(CWD, link_to(file), Vec::new())?;
    Ok(OsString::from_vec(path.into_bytes()).into())
}

/// A path at which an open file can be opened again, whatever its name is now.
pub(crate) fn link_to(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// The error of looking `path` up, with the part of it that is missing or is no directory. An error
/// that already says it all, because it is about `named` itself, stays as it is.
pub(crate) fn explained(path: &Path, named: &Path, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
        _ => return error,
    }
    let parts: Vec<_> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    let why = parts.into_iter().rev().find_map(|part| match part.symlink_metadata() {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            (part != named).then(|| format!("{} is missing", part.display()))
        }
        Ok(found) if found.is_symlink() && !part.exists() => {
            let to = std::fs::read_link(part).unwrap_or_default();
            Some(format!("{} is a link to {}, which is missing", part.display(), to.display()))
        }
        Ok(_) if part != named && !part.is_dir() => {
            Some(format!("{} is not a directory", part.display()))
        }
        _ => None,
    });
    match why {
        Some(why) => io::Error::new(error.kind(), why),
        None => error,
    }
}
