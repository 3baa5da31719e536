//! The socket: made here, or by a service manager.
//!
//! Whether a socket that is there belongs to a server that lives is asked of the socket: one that
//! is dead refuses connections. Between the asking and the making of a new one a file beside it is
//! locked, so that of two servers that start at once one sees the other's; not the directory, which
//! whoever may read it can lock. The lock is not kept: the kernel knows for how long a socket is
//! listened to.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use nix::unistd::Group;
use overlay_pool::place::open_trusted;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{geteuid, umask};

use crate::commands::exit::Exit;
use crate::commands::failure::{self, Failure};
use crate::commands::trusted::parent;

/// How long another server may take to make its own socket in the same directory.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);

/// The name of a socket that was made here. Dropped, it is removed, unless another server has
/// taken it over.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        let Ok(_locked) = Lock::of(&self.path) else { return };
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes the socket of the service manager, if there is one, or makes one at `path`, for this
/// user and `group`. `option` names the path.
pub(super) fn open(
    path: &Path,
    group: Option<&str>,
    option: &str,
) -> Result<(UnixListener, Option<Name>), Failure> {
    let mut passed = ListenFd::from_env();
    if passed.len() > 0 {
        let listener = passed.take_unix_listener(0).and_then(|listener| {
            listener.filter(|_| passed.len() == 1).ok_or(io::ErrorKind::InvalidInput.into())
        });
        let listener = listener.map_err(|error| {
            let cause = format!("what the service manager passed: {error}");
            Failure::new(Exit::Failed, cause, "pass one Unix stream socket")
        })?;
        return Ok((listener, None));
    }
    let group = group.map(group_id).transpose()?;
    let (listener, name) = make(path, group).map_err(|error| {
        let shorter = format!("name a shorter one with {option}");
        let advice = match error.kind() {
            io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => shorter.as_str(),
            // With an error number the system said so, without one we did, and gave the advice.
            _ if error.raw_os_error().is_some() => failure::system(&error),
            _ => "",
        };
        Failure::new(Exit::Failed, format!("socket {}: {error}", path.display()), advice)
    })?;
    Ok((listener, Some(name)))
}

fn group_id(name: &str) -> Result<u32, Failure> {
    let bad = |cause: String| Failure::new(Exit::Usage, cause, "name a group of this machine");
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(bad(format!("--socket-group {name}: no such group"))),
        Err(errno) => Err(bad(format!("--socket-group {name}: {errno}"))),
    }
}

fn make(path: &Path, group: Option<u32>) -> io::Result<(UnixListener, Name)> {
    make_directory(parent(path), group)?;
    open_trusted(parent(path)).map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", parent(path).display()))
    })?;
    let _locked = Lock::of(path)?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::other(
                "something else is there; remove it, or name another path",
            ));
        }
        Ok(_) if is_alive(path)? => {
            let cause = "another server listens there; stop it, or name another path";
            return Err(io::Error::other(cause));
        }
        Ok(_) => std::fs::remove_file(path)?,
    }
    // For this user alone from the first moment.
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    let name = Name { path: path.to_owned(), identity: identity(path)? };
    if let Some(group) = group {
        admit(path, group, 0o660)?;
    }
    Ok((listener, name))
}

/// If it is missing, makes the directory for this user and the group alone.
fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    if let Some(group) = group {
        admit(path, group, 0o750)?;
    }
    Ok(())
}

/// Gives what was made here to a group too, and nothing that a link at its path leads to.
fn admit(path: &Path, group: u32, mode: u32) -> io::Result<()> {
    let made = options(OFlags::PATH).open(path)?;
    if made.metadata()?.file_type().is_symlink() {
        return Err(io::Error::other("a link was put in its place"));
    }
    // The file itself, which is open without the right to do anything else with it.
    let made_itself = format!("/proc/self/fd/{}", made.as_raw_fd());
    // A sandbox may forbid to change owners, where there is nothing to change.
    if made.metadata()?.gid() != group {
        chown(&made_itself, None, Some(group))?;
    }
    std::fs::set_permissions(made_itself, Permissions::from_mode(mode))
}

/// To open a file and not what a link leads to.
fn options(flags: OFlags) -> std::fs::OpenOptions {
    let mut options = File::options();
    let flags = (flags | OFlags::NOFOLLOW).bits();
    options.read(true).custom_flags(i32::try_from(flags).unwrap_or(0));
    options
}

/// A file beside a socket, which whoever makes or removes that one has locked. Dropped, it is
/// removed.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn of(socket: &Path) -> io::Result<Self> {
        let mut path = OsString::from(socket);
        path.push(".lock");
        let path = PathBuf::from(path);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let file = options(OFlags::empty()).write(true).create(true).mode(0o600).open(&path)?;
            let found = file.metadata()?;
            if found.uid() != geteuid().as_raw() || !found.is_file() {
                let cause = format!("{} is another user's; remove it", path.display());
                return Err(io::Error::other(cause));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever had it may have removed it.
                Ok(()) if is_at(&found, &path) => return Ok(Self { path, _file: file }),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Errno::WOULDBLOCK) => {
                    let cause = "another program keeps it locked; end it, or name another";
                    return Err(io::Error::other(cause));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_at(file: &std::fs::Metadata, path: &Path) -> bool {
    identity(path).is_ok_and(|found| found == (file.dev(), file.ino()))
}

/// Whether anybody listens.
fn is_alive(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        // Its queue may be full, it may not be for us, or of another kind.
        Ok(()) | Err(Errno::AGAIN | Errno::ACCESS | Errno::PROTOTYPE) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
