//! The files that QEMU is given: each open, so that QEMU needs no path to it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::error::VmError;
use super::machine::{Beginning, Machine, Numbers, StateFiles};

/// The open files of one VM.
#[derive(Debug)]
pub(super) struct Files {
    disk: File,
    base: File,
    kernel: File,
    initramfs: File,
    state: Option<(File, File)>,
}

impl Files {
    pub(super) fn open(
        machine: &Machine,
        disk: File,
        beginning: Beginning<'_>,
    ) -> Result<Self, VmError> {
        let open = |what, path: &Path, reads: bool, writes: bool| {
            let opened = File::options().read(reads).write(writes).open(path);
            opened.map_err(|source| VmError::File { what, path: path.to_owned(), source })
        };
        let read = |what, path| open(what, path, true, false);
        let state = match beginning {
            Beginning::Boot => None,
            Beginning::Save(StateFiles { ram, devices }) => Some((
                open("saved state", ram, true, true)?,
                open("saved state", devices, false, true)?,
            )),
            Beginning::Resume(StateFiles { ram, devices }) => {
                Some((read("saved state", ram)?, read("saved state", devices)?))
            }
        };
        Ok(Self {
            disk,
            base: read("base image", machine.base.path())?,
            kernel: read("kernel", &machine.kernel)?,
            initramfs: read("initramfs", &machine.initramfs)?,
            state,
        })
    }

    pub(super) fn numbers(&self) -> Numbers {
        let Self { disk, base, kernel, initramfs, state } = self;
        let state = state.as_ref().map(|(ram, devices)| (ram.as_raw_fd(), devices.as_raw_fd()));
        Numbers {
            disk: disk.as_raw_fd(),
            base: base.as_raw_fd(),
            kernel: kernel.as_raw_fd(),
            initramfs: initramfs.as_raw_fd(),
            state,
        }
    }

    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let Self { disk, base, kernel, initramfs, state } = self;
        let state = state.into_iter().flat_map(|(ram, devices)| [ram, devices]);
        [disk, base, kernel, initramfs].into_iter().chain(state).map(OwnedFd::from).collect()
    }
}
