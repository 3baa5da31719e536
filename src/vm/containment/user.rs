//! The user that QEMU runs as.

use std::ffi::CString;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{self, Gid, getgrouplist};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};
use tokio::process::Command;

use super::measure::Measure;
use crate::sys;
use crate::vm::error::VmError;

const WHAT: &str = "VMs' user";
/// What a process must be able to do to start and end another user's.
const POWERS: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::KILL);

/// A user that isn't this process' own.
#[derive(Clone, Debug)]
pub(super) struct User {
    name: String,
    uid: u32,
    gid: u32,
    /// All of the user's.
    groups: Vec<u32>,
}

impl User {
    /// The user of this name, if this process may change to it.
    pub(super) fn find(name: &str) -> Result<Self, VmError> {
        let refused = |reason: &str| VmError::User { user: name.to_owned(), reason: reason.into() };
        let found = unistd::User::from_name(name).map_err(|errno| refused(errno.desc()))?;
        let found = found.ok_or_else(|| refused("no such user"))?;
        if found.uid.is_root() {
            return Err(refused("it may do all that VMs shall not"));
        }
        if !may_change() {
            return Err(refused(
                "this process may not change to another; run it as root, or without --vm-user",
            ));
        }
        let groups = CString::new(name).ok().map(|name| getgrouplist(&name, found.gid));
        let groups = groups.and_then(Result::ok).unwrap_or_else(|| vec![found.gid]);
        Ok(Self {
            name: found.name,
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        })
    }

    pub(super) fn group(&self) -> u32 {
        self.gid
    }

    /// By the file's mode alone; an access list may say otherwise.
    pub(super) fn may_read(&self, file: &Metadata) -> bool {
        let right = if file.uid() == self.uid {
            0o400
        } else if self.groups.contains(&file.gid()) {
            0o040
        } else {
            0o004
        };
        file.mode() & right != 0
    }

    /// Has a program run as this user.
    pub(super) fn become_of(&self, command: &mut Command) {
        sys::change_user(command, self.uid, self.gid, &self.groups);
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Says whom QEMU runs as.
pub(super) fn told(user: Option<&User>) -> Measure {
    if let Some(user) = user {
        return Measure::in_force(WHAT, format!("QEMU runs as {user}"));
    }
    let own = unistd::User::from_uid(unistd::geteuid()).ok().flatten();
    let own = own.map_or_else(|| geteuid().as_raw().to_string(), |own| own.name);
    let found = format!("QEMU runs as {own}, as this program does");
    if may_change() {
        return Measure::missing(WHAT, found, "name an unprivileged user with serve --vm-user");
    }
    Measure::missing(WHAT, found, "only root can have it run as another, with serve --vm-user")
}

fn may_change() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(POWERS))
}
