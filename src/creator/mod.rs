//! Three ways to make an overlay.
//!
//! A creator fills an open, empty file; it never sees the file's name. So it can't overwrite
//! anything, can't leave a partial file behind, and needs no cleaning up of files when it fails
//! or is cancelled: that is up to whoever made the file.
//!
//! They are a closed set, and so an enum: what a pool promises of a creator (that nothing of it is
//! left after a stop, whatever ends it) can't be left to a caller's own.

mod native;
mod qemu_img;
mod storage_daemon;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use crate::qmp::QmpError;
pub use qemu_img::QemuImg;
pub use storage_daemon::StorageDaemon;

use crate::image::Overlay;

/// How many creations a creator with processes has under way at most, on demand and ahead,
/// abandoned ones among them.
const MAX_IN_FLIGHT: u32 = 32;

/// What makes overlays.
#[derive(Debug)]
#[non_exhaustive]
pub enum Creator {
    /// See [`CreatorKind::Native`].
    Native,
    /// See [`CreatorKind::StorageDaemon`].
    StorageDaemon(StorageDaemon),
    /// See [`CreatorKind::QemuImg`].
    QemuImg(QemuImg),
}

impl Creator {
    /// A creator that isn't started. A creation that takes longer than `timeout` fails.
    #[must_use]
    pub fn new(kind: CreatorKind, tools: &Tools, timeout: Duration) -> Self {
        match kind {
            CreatorKind::Native => Self::Native,
            CreatorKind::StorageDaemon => {
                Self::StorageDaemon(StorageDaemon::new(&tools.storage_daemon, timeout))
            }
            CreatorKind::QemuImg => Self::QemuImg(QemuImg::new(&tools.qemu_img, timeout)),
        }
    }

    /// Makes the creator ready.
    ///
    /// # Errors
    ///
    /// A [`CreatorError`] that says why it can't be used on this machine.
    pub async fn start(&self) -> Result<(), CreatorError> {
        match self {
            Self::Native => Ok(()),
            Self::StorageDaemon(creator) => creator.start().await,
            Self::QemuImg(creator) => creator.start().await,
        }
    }

    /// Whether [`write`](Self::write) does its work on the thread that polls it, and so keeps it
    /// for as long as the filesystem takes.
    #[must_use]
    pub fn blocks(&self) -> bool {
        matches!(self, Self::Native)
    }

    /// Writes `overlay` into `file`, which is empty and open for writing.
    ///
    /// If this future is dropped the file's content is undefined. A program that still works on it
    /// is killed or runs to its end, and counts as under way for so long.
    ///
    /// # Errors
    ///
    /// A [`CreatorError`] that says why the overlay could not be made.
    pub async fn write(
        &self,
        overlay: &Arc<Overlay>,
        file: &Arc<File>,
    ) -> Result<(), CreatorError> {
        match self {
            Self::Native => Ok(native::write(overlay, file)?),
            Self::StorageDaemon(creator) => creator.write(overlay, file).await,
            Self::QemuImg(creator) => creator.write(overlay, file).await,
        }
    }

    /// Ends what the creator has running, for good: creations under way fail, and so do later ones.
    pub async fn stop(&self) {
        match self {
            Self::Native => {}
            Self::StorageDaemon(creator) => creator.stop().await,
            Self::QemuImg(creator) => creator.stop().await,
        }
    }
}

/// The creators that come with the pool.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum CreatorKind {
    /// Writes the overlay's bytes itself. Needs no QEMU.
    #[default]
    Native,
    /// Asks one `qemu-storage-daemon` that runs as long as the pool does.
    StorageDaemon,
    /// Runs `qemu-img create` for each overlay.
    QemuImg,
}

impl CreatorKind {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Native, Self::StorageDaemon, Self::QemuImg];

    /// The name on the command line and in figures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::StorageDaemon => "storage-daemon",
            Self::QemuImg => "qemu-img",
        }
    }
}

/// Which QEMU programs to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// `qemu-img`, by path or by name on `PATH`.
    pub qemu_img: PathBuf,
    /// `qemu-storage-daemon`, by path or by name on `PATH`.
    pub storage_daemon: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self { qemu_img: "qemu-img".into(), storage_daemon: "qemu-storage-daemon".into() }
    }
}

/// Why an overlay could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreatorError {
    /// The program isn't there or can't be started.
    #[error("can't run {}: {source}; install QEMU's tools (Debian: qemu-utils) or use the native creator", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing the file failed.
    #[error("can't write: {0}")]
    Write(#[from] io::Error),
    /// The program ran and failed.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// What it said.
        message: String,
    },
    /// The storage daemon refused, went away, or said what can't be understood.
    #[error("qemu-storage-daemon: {0}")]
    Daemon(#[source] QmpError),
    /// It took too long.
    #[error("no answer within {0:?}; the creator was killed and will be replaced")]
    Timeout(Duration),
    /// QMP carries text, and this path isn't.
    #[error("{} is not valid UTF-8, which the storage daemon can't be told; use another creator", .0.display())]
    NotUtf8(PathBuf),
    /// The creator isn't running.
    #[error("the creator was stopped")]
    Stopped,
}

impl From<QmpError> for CreatorError {
    fn from(error: QmpError) -> Self {
        full(&error.to_string()).map_or(Self::Daemon(error), Self::Write)
    }
}

/// What the system said, if a program of QEMU's repeats that the disk is full: who asked for an
/// overlay has the same to do whoever found it out.
fn full(said: &str) -> Option<io::Error> {
    let texts = [("No space left on device", Errno::NOSPC), ("Disk quota exceeded", Errno::DQUOT)];
    texts.into_iter().find(|(text, _)| said.ends_with(text)).map(|(_, errno)| errno.into())
}

/// A path at which another process of this user can open `file`, whatever its name is now.
fn path_for_child(file: &File) -> io::Result<String> {
    // What /proc/self points to is our PID as that mount of /proc sees it.
    let pid = std::fs::read_link("/proc/self")?;
    Ok(format!("/proc/{}/fd/{}", pid.display(), file.as_raw_fd()))
}
