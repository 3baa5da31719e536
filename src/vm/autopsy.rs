//! What a VM died of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::console;
use super::error::VmError;
use super::guest::GuestError;
use super::qemu::{Qemu, QemuError};

/// Finds out why a VM is of no use any more.
#[derive(Clone, Debug)]
pub(super) struct Autopsy {
    pub(super) vm: String,
    /// Where consoles are kept.
    pub(super) logs: PathBuf,
}

impl Autopsy {
    /// What is wrong with a VM whose guest can't be asked. Its QEMU is killed, unless the guest
    /// only refused.
    pub(super) async fn examine(&self, qemu: &Qemu, source: GuestError) -> VmError {
        let vm = self.vm.clone();
        if matches!(source, GuestError::Refused(_) | GuestError::TooLong { .. }) {
            return VmError::Guest { vm, source, log: None };
        }
        let status = match source {
            GuestError::Closed => qemu.end().await,
            _ => None,
        };
        let (said, log) = (qemu.last_words(), self.keep_console(qemu));
        qemu.kill().await;
        match status {
            Some(status) => VmError::Ended { vm, status, said, log },
            None => VmError::Guest { vm, source, log },
        }
    }

    /// What kept QEMU from starting.
    pub(super) fn stillborn(&self, error: QemuError, after: Duration) -> VmError {
        let vm = self.vm.clone();
        match error {
            QemuError::Vm(error) => error,
            QemuError::Timeout => {
                let said = "QEMU doesn't answer".to_owned();
                VmError::BootTimeout { vm, after, said, log: None }
            }
            QemuError::Ended(status, said) => {
                let said = said.lines().next_back().unwrap_or("it said nothing").to_owned();
                VmError::Ended { vm, status, said, log: None }
            }
        }
    }

    /// That the guest did not boot in time. Its QEMU is killed.
    pub(super) async fn too_late(&self, qemu: &Qemu, after: Duration) -> VmError {
        let (said, log) = (qemu.last_words(), self.keep_console(qemu));
        qemu.kill().await;
        VmError::BootTimeout { vm: self.vm.clone(), after, said, log }
    }

    /// That the host has no room for what the guest writes to this disk.
    pub(super) fn no_space(&self, disk: &Path) -> VmError {
        let directory = disk.parent().unwrap_or(Path::new(".")).to_owned();
        VmError::NoSpace { vm: self.vm.clone(), directory }
    }

    fn keep_console(&self, qemu: &Qemu) -> Option<PathBuf> {
        console::keep(&self.logs, &self.vm, &qemu.console())
    }
}
