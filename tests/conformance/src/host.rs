//! What cases need of the machine, what it has, and what to install.

use std::os::unix::fs::chown;
use std::process::Command;
use std::sync::OnceLock;

use crate::case::Case;
use crate::faults::fuse;
use crate::step::Step;
use crate::unshare;

/// Something that a machine has or hasn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// `qemu-img`.
    QemuImg,
    /// `qemu-io`.
    QemuIo,
    /// `setpriv`, which takes root's powers from a shim.
    Setpriv,
    /// The right to make a mount namespace and to mount tmpfs in it.
    MountNamespace,
    /// `bindfs`, and the right to mount it in a mount namespace.
    Fuse,
    /// An effective user id of 0, and the right to give files to other users.
    Root,
}

/// A user who is neither root nor us; where root is there, files can be given to them.
const SOMEBODY: u32 = 65534;

impl Need {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::QemuImg, Self::QemuIo, Self::Setpriv, Self::MountNamespace, Self::Fuse, Self::Root];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-img",
            Self::QemuIo => "qemu-io",
            Self::Setpriv => "setpriv",
            Self::MountNamespace => "mount-namespace",
            Self::Fuse => "fuse",
            Self::Root => "root",
        }
    }

    /// The package of Debian that has it, or what else to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::QemuImg | Self::QemuIo => "install qemu-utils",
            Self::Setpriv => "install util-linux",
            Self::MountNamespace => {
                "install util-linux and mount, and let this user make user namespaces"
            }
            Self::Fuse => "install bindfs, and let /dev/fuse be opened",
            Self::Root => "run as root",
        }
    }

    /// What was found, or why it isn't there. It is looked for once in a process.
    pub fn probe(self) -> &'static Result<String, String> {
        static FOUND: [OnceLock<Result<String, String>>; Need::ALL.len()] =
            [const { OnceLock::new() }; Need::ALL.len()];
        FOUND[self as usize].get_or_init(|| match self {
            Self::QemuImg | Self::QemuIo | Self::Setpriv => version(self.name()),
            Self::MountNamespace => mount_namespace(),
            Self::Fuse => fuse::probe(),
            Self::Root => root(),
        })
    }

    /// The needs of a case.
    #[must_use]
    pub fn of(case: &Case) -> Vec<Self> {
        let checks = |step: &Step| matches!(step, Step::Sound { .. } | Step::Resize { .. });
        let makes = |step: &Step| matches!(step, Step::Image { .. });
        let needs = [
            (Self::QemuImg, !case.images.is_empty() || case.has(makes) || case.has(checks)),
            (Self::QemuIo, case.has(|step| matches!(step, Step::GuestWrite { .. }))),
            (Self::Setpriv, case.wants_no_powers()),
            (Self::MountNamespace, case.mounts_anything()),
            (Self::Fuse, !case.passed_on.is_empty()),
            (Self::Root, case.has(|step| matches!(step, Step::Chown { .. }))),
        ];
        needs.into_iter().filter(|(_, is_needed)| *is_needed).map(|(need, _)| need).collect()
    }
}

fn version(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(format!("{program} --version failed: {}", output.status)),
    }
}

/// Uid 0 alone isn't enough: in a user namespace it may be all there is.
fn root() -> Result<String, String> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(format!("uid {}", uid.as_raw()));
    }
    let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    chown(file.path(), Some(SOMEBODY), None)
        .map_err(|error| format!("uid 0, but no file can be given to uid {SOMEBODY}: {error}"))?;
    Ok("uid 0".to_owned())
}

/// On a folder of its own: a sandbox need not have `/mnt`.
fn mount_namespace() -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs"])
        .arg(folder.path())
        .output()
        .map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        Ok("unshare --map-root-user --mount".to_owned())
    } else {
        Err(unshare::why(&output, String::new()))
    }
}
