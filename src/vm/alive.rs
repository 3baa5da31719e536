//! A VM that has come to life.

use std::time::Duration;

use serde::Serialize;
use tokio::io::empty;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};

use super::guest::{self, Guest, GuestError, Ran, Run};
use super::qemu::{Qemu, QemuError};
use crate::Source;

/// How a VM came to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Its kernel booted.
    Booted,
    /// It was resumed from a saved state.
    Resumed,
    /// It was resumed before anybody asked for it, and waited.
    Warm,
}

/// How long each part of a VM's creation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Getting the disk from the pool.
    pub overlay: Duration,
    /// Starting QEMU, until it listens to us; none for a VM that waited, as for all before it was
    /// asked for.
    pub spawn: Duration,
    /// Booting until the guest's supervisor has begun, or loading a saved state.
    pub boot: Duration,
    /// Making the guest one of its own: seed, clock, names, writable disk. A VM that waited is
    /// only told to.
    pub renew: Duration,
}

/// A QEMU, and the guest in it.
#[derive(Debug)]
pub(super) struct Alive {
    pub(super) qemu: Qemu,
    pub(super) guest: Mutex<Guest>,
    /// Where its disk came from; none if it is the caller's.
    pub(super) disk: Option<Source>,
    pub(super) start: Start,
    pub(super) phases: Phases,
}

/// Why a VM that waited is of no use.
#[derive(Debug)]
#[expect(dead_code, reason = "it is logged")]
pub(super) enum Dead {
    Qemu(QemuError),
    Guest(GuestError),
    Hangs,
}

/// How long QEMU may take to let a guest stand still, or go on.
pub(super) const WAKE: Duration = Duration::from_secs(5);

/// How long a guest may take to grow its file system.
const GROW: Duration = Duration::from_secs(30);
/// How long a guest may take to write what it holds of a caller's disk before its QEMU ends: a loaded
/// machine under emulation is slow.
const SETTLE: Duration = Duration::from_secs(30);
/// Writes that, and marks the file system as whole, unless something that still runs writes to it.
const WRITE_ALL: &str = "sync; mount -o remount,ro /";

impl Alive {
    /// Has the guest write all that it holds of its disk. No program can be run afterwards.
    pub(super) async fn settle(&self, deadline: Instant) -> Result<Ran, GuestError> {
        let arguments = ["sh", "-c", WRITE_ALL].map(str::to_owned).to_vec();
        let start = guest::Start { arguments, ..guest::Start::default() };
        let run = Run { start: Some(&start), code: &[], file: None, limit: 0, deadline };
        let (output, _parts) = mpsc::channel(1);
        self.guest.lock().await.run(run, empty(), output).await
    }

    /// Ends QEMU, and says whether it has ended; on a caller's disk in order, as far as the guest allows
    /// it.
    pub(super) async fn end(&self) -> bool {
        if self.disk.is_some() {
            return self.qemu.kill().await.is_some();
        }
        tokio::select! {
            _ = timeout(SETTLE, self.settle(Instant::now() + SETTLE)) => {}
            // It stands still.
            () = self.qemu.no_space() => {}
        }
        self.qemu.quit().await
    }

    /// Lets a VM that waited go on, with a disk of so many bytes, if it shall have more than its base
    /// image: that is waited for, and else the guest answers with whatever it is asked next.
    pub(super) async fn wake(&mut self, hostname: &str, disk: Option<u64>) -> Result<(), Dead> {
        let begin = Instant::now();
        self.guest.get_mut().renew(hostname, disk).map_err(Dead::Guest)?;
        let go_on = async {
            self.qemu.go_on().await?;
            self.qemu.grow(disk).await
        };
        timeout(WAKE, go_on).await.map_err(|_| Dead::Hangs)?.map_err(Dead::Qemu)?;
        if disk.is_some() {
            let grown = self.guest.get_mut().renewed(Instant::now() + GROW);
            grown.await.map_err(Dead::Guest)?;
        }
        self.start = Start::Warm;
        self.phases = Phases { renew: begin.elapsed(), ..Phases::default() };
        Ok(())
    }
}
