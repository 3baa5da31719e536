//! What a Pod is given: a directory with an overlay, its base image, and a file with what QEMU is
//! to be told of the two.
//!
//! The directory belongs to root, and the Pod's group may not write to it. A Pod that runs as root
//! may, so nothing in it is believed: no link is followed, and what is not a file is an error.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, fcntl_lock, fstatvfs, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::base_mount;
use super::tree::{self, Stuck};
use crate::image::{Format, Header, read_start};
use crate::paths::link_to;

/// The overlay.
pub(super) const DISK: &str = "disk.qcow2";
/// The base image, read-only.
pub(super) const BASE: &str = "base.img";
/// What QEMU is to be told of both. It is written last: a volume that has it is complete.
pub(super) const ARGUMENTS: &str = "qemu.args";
/// The same, until it is written.
const DRAFT: &str = ".qemu.args";
/// How much of it is read, in bytes: more than it has.
const LONGEST: u64 = 4096;

/// A volume's directory, which is there.
#[derive(Debug)]
pub(super) struct Volume {
    parent: OwnedFd,
    directory: OwnedFd,
    path: PathBuf,
}

/// What was to be done in a volume and failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(super) struct VolumeError {
    path: PathBuf,
    pub(super) source: io::Error,
}

/// How full a volume is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// The size of the guest's disk.
    pub(super) total: u64,
    /// What the overlay takes of the node's filesystem.
    pub(super) used: u64,
    /// What it may take more: the rest of the disk, or of the filesystem.
    pub(super) available: u64,
}

impl Volume {
    pub(super) fn new(parent: OwnedFd, directory: OwnedFd, path: PathBuf) -> Self {
        Self { parent, directory, path }
    }

    /// Where the overlay shall be.
    pub(super) fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }

    /// Whether a Pod may use it.
    pub(super) fn is_complete(&self) -> bool {
        statat(&self.directory, ARGUMENTS, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Makes all but the overlay, which is there: shows the base image, tells QEMU, lets the Pod's
    /// group in. What was done before is done again or left.
    pub(super) fn complete(
        &self,
        base: &Path,
        format: Format,
        group: Option<u32>,
    ) -> Result<(), VolumeError> {
        let disk = self.open(DISK).map_err(self.failed(DISK))?;
        admit(&disk, group, 0o660).map_err(self.failed(DISK))?;
        self.clear_unless_file(BASE)?;
        base_mount::attach(base, &self.directory, BASE)
            .map_err(|source| VolumeError { path: base.to_owned(), source })?;
        if group.is_some() {
            expect_readable(base)?;
        }
        self.write_arguments(&arguments(format), group)?;
        admit(&self.as_file()?, group, 0o750).map_err(self.failed(""))
    }

    /// Takes the directory back, which a Pod that runs as root may have given to another user: the
    /// server has this user's rights and no others. It is refused if something is mounted over it.
    pub(super) fn take_back(&self) -> Result<(), VolumeError> {
        if base_mount::is_mounted(&self.parent, self.name()).map_err(self.failed(""))? {
            return Err(self.failed("")(base_mount::in_the_way()));
        }
        let directory = self.as_file()?;
        let take_back = || {
            let (found, ours) = (directory.metadata()?, geteuid().as_raw());
            if found.uid() != ours {
                fchown(&directory, Some(ours), None)?;
            }
            if found.mode() & 0o700 != 0o700 {
                let mode = found.mode() & 0o7777 | 0o700;
                directory.set_permissions(Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        take_back().map_err(self.failed(""))
    }

    /// Has no Pod begin with it any more, and takes the base image out of it. The overlay stays.
    pub(super) fn close(&self) -> Result<(), VolumeError> {
        for name in [ARGUMENTS, DRAFT] {
            self.clear(name)?;
        }
        base_mount::detach(&self.directory, BASE).map_err(self.failed(BASE))
    }

    /// Whether this driver made it, beyond doubt: QEMU is told what is told here, and a base image is
    /// mounted in it, as no Pod can, while it is no mount itself.
    pub(super) fn is_ours(&self) -> bool {
        let is_itself = base_mount::is_mounted(&self.parent, self.name());
        let has_base = base_mount::is_mounted(&self.directory, BASE);
        let mut told = Vec::new();
        let read = self.open(ARGUMENTS);
        let read = read.and_then(|file| file.take(LONGEST).read_to_end(&mut told));
        let ours = [Format::Qcow2, Format::Raw].map(|format| arguments(format).into_bytes());
        matches!((is_itself, has_base), (Ok(false), Ok(true)))
            && read.is_ok()
            && ours.contains(&told)
    }

    /// Removes a volume of ours that nobody knows, unless a QEMU has its overlay open.
    pub(super) fn discard(self) -> Result<(), VolumeError> {
        self.expect_unlocked().map_err(self.failed(DISK))?;
        // First: what takes space is gone even if the rest, without which it isn't known as ours, is
        // broken off.
        self.clear(DISK)?;
        self.close()?;
        self.remove()
    }

    /// QEMU holds a lock on what it has open.
    fn expect_unlocked(&self) -> io::Result<()> {
        let judged = match self.open(DISK) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            judged => judged?,
        };
        // Once more, since only who may write gets the lock.
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let disk = openat(CWD, link_to(&judged), flags, Mode::empty())?;
        match fcntl_lock(&disk, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::ACCESS) => Err(io::Error::other("a program has it open")),
            locked => Ok(locked?),
        }
    }

    /// Removes a closed volume with all that is in it.
    pub(super) fn remove(self) -> Result<(), VolumeError> {
        tree::remove(&self.parent, self.name()).map_err(|stuck| self.stuck(stuck))
    }

    /// Removes the directory, which nothing is in.
    pub(super) fn remove_if_empty(&self) -> Result<(), VolumeError> {
        unlinkat(&self.parent, self.name(), AtFlags::REMOVEDIR)
            .map_err(|errno| self.failed("")(errno.into()))
    }

    pub(super) fn usage(&self) -> Result<Usage, VolumeError> {
        let disk = self.open(DISK).map_err(self.failed(DISK))?;
        let used = disk.metadata().map_err(self.failed(DISK))?.blocks() * 512;
        let space = fstatvfs(&self.directory).map_err(|errno| self.failed(DISK)(errno.into()))?;
        // It is the guest's by now, which may have damaged it.
        let start = read_start(Path::new(&format!("/proc/self/fd/{}", disk.as_raw_fd())));
        let header = start.ok().and_then(|(start, _)| Header::parse(&start).ok());
        let total = header.map_or(0, |header| header.size);
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        Ok(Usage { total, used, available: total.saturating_sub(used).min(free) })
    }

    /// Opens a file that may be read, and nothing that only looks like one.
    fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::other("not a regular file"))
        }
    }

    fn write_arguments(&self, text: &str, group: Option<u32>) -> Result<(), VolumeError> {
        self.clear(DRAFT)?;
        self.clear_unless_file(ARGUMENTS)?;
        let write = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let draft = openat(&self.directory, DRAFT, flags, Mode::RUSR | Mode::WUSR)?;
            let mut draft = File::from(draft);
            draft.write_all(text.as_bytes())?;
            admit(&draft, group, 0o440)?;
            Ok(renameat(&self.directory, DRAFT, &self.directory, ARGUMENTS)?)
        };
        write().map_err(self.failed(ARGUMENTS))
    }

    /// Removes what a Pod has put where a file is to be.
    fn clear_unless_file(&self, name: &str) -> Result<(), VolumeError> {
        let found = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        match found.map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::RegularFile) | Err(_) => Ok(()),
            Ok(_) => self.clear(name),
        }
    }

    /// Removes what has a name in it, whatever a Pod has put there.
    fn clear(&self, name: &str) -> Result<(), VolumeError> {
        tree::remove(&self.directory, name.as_ref()).map_err(|stuck| self.stuck(stuck))
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    fn as_file(&self) -> Result<File, VolumeError> {
        self.directory.try_clone().map(File::from).map_err(self.failed(""))
    }

    fn failed(&self, name: &str) -> impl Fn(io::Error) -> VolumeError + use<> {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        move |source| VolumeError { path: path.clone(), source }
    }

    fn stuck(&self, Stuck { path, source }: Stuck) -> VolumeError {
        VolumeError { path: self.path.join(path), source }
    }
}

/// Lets a group in as far as `mode` says; without one, root alone: Pods may have root's group.
fn admit(file: &File, group: Option<u32>, mode: u32) -> io::Result<()> {
    let found = file.metadata()?;
    let (group, mode) = group.map_or((0, mode & !0o070), |group| (group, mode));
    if found.gid() != group {
        fchown(file, None, Some(group))?;
    }
    if found.mode() & 0o7777 != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// A Pod that isn't root's reads a base image as everybody may.
fn expect_readable(base: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError { path: base.to_owned(), source };
    if std::fs::metadata(base).map_err(failed)?.mode() & 0o004 != 0 {
        return Ok(());
    }
    let why = "Pods with a group can't read this base image; chmod a+r it";
    Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)))
}

/// Two words for QEMU or `qemu-storage-daemon`, which has the names of a volume's files and no
/// others, and so runs in its directory. What the overlay's own header says of a base image is
/// passed over: that is a path of the node.
fn arguments(format: Format) -> String {
    format!(
        "--blockdev driver=qcow2,node-name=disk,file.driver=file,file.filename={DISK},\
         backing.driver={format},backing.read-only=on,backing.file.driver=file,\
         backing.file.filename={BASE}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn volume(dir: &Path) -> Volume {
        let path = dir.join("mount");
        std::fs::create_dir_all(&path).expect("a folder");
        let open = |path: &Path| OwnedFd::from(File::open(path).expect("it is opened"));
        Volume::new(open(dir), open(&path), path)
    }

    #[test]
    fn arguments_are_two_plain_words() {
        let text = arguments(Format::Raw);
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!((words.len(), words[0]), (2, "--blockdev"));
        assert!(words[1].contains("backing.driver=raw"), "{text}");
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._=,".contains(&byte);
        assert!(words.concat().bytes().all(plain), "a shell takes them as they are: {text}");
    }

    #[test]
    fn it_is_complete_once_the_arguments_are_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = volume(dir.path());
        assert!(!volume.is_complete());
        let group = Some(rustix::process::getegid().as_raw());
        for _ in 0..2 {
            volume.write_arguments("one\n", group).expect("it is written");
            assert!(volume.is_complete());
        }
        let found = std::fs::metadata(dir.path().join("mount").join(ARGUMENTS)).expect("a file");
        assert_eq!(found.mode() & 0o7777, 0o440);
        volume.close().expect("it is closed");
        assert!(!volume.is_complete());
        volume.close().expect("it was closed");
        volume.remove().expect("it is removed");
        assert!(!dir.path().join("mount").exists());
    }

    /// A Pod that runs as root can put anything into its directory.
    #[test]
    fn links_and_pipes_are_no_disks() {
        let dir = tempfile::tempdir().expect("a folder");
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "kept").expect("a file");
        let volume = volume(dir.path());
        let disk = volume.disk();
        symlink(&precious, &disk).expect("a link");
        volume.usage().expect_err("a link is no disk");
        std::fs::remove_file(&disk).expect("it is removed");
        std::fs::create_dir(&disk).expect("a folder");
        let error = volume.usage().expect_err("a folder is no disk");
        assert!(error.to_string().ends_with("disk.qcow2: not a regular file"), "{error}");
        symlink(dir.path(), disk.join("up")).expect("a link");
        volume.remove().expect("it is removed");
        assert_eq!(std::fs::read_to_string(&precious).expect("it is there"), "kept");
    }

    /// The guest writes to its overlay as it likes.
    #[test]
    fn a_damaged_disk_has_a_usage() {
        let dir = tempfile::tempdir().expect("a folder");
        let volume = volume(dir.path());
        std::fs::write(volume.disk(), [1; 8192]).expect("a file");
        let usage = volume.usage().expect("its usage");
        assert_eq!((usage.total, usage.available), (0, 0));
        assert!(usage.used >= 8192, "{usage:?}");
    }
}
