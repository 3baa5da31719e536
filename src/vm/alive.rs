//! A VM that has come to life.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::guest::{Guest, GuestError};
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
    pub(super) disk: Source,
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

impl Alive {
    /// Lets a VM that waited go on. The guest answers with whatever it is asked next.
    pub(super) async fn wake(&mut self, hostname: &str) -> Result<(), Dead> {
        let begin = Instant::now();
        self.guest.get_mut().renew(hostname).map_err(Dead::Guest)?;
        timeout(WAKE, self.qemu.go_on()).await.map_err(|_| Dead::Hangs)?.map_err(Dead::Qemu)?;
        self.start = Start::Warm;
        self.phases = Phases { renew: begin.elapsed(), ..Phases::default() };
        Ok(())
    }
}
