//! The machine that QEMU is to be.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::VmError;
use crate::image::{BaseImage, Format};

const APPEND: &str = "console=ttyS0 quiet cryptomgr.notests mitigations=off init_on_alloc=0 \
                      tsc=reliable no_timer_check panic=-1";

/// A kind of machine: all that VMs of one base image share.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) qemu: PathBuf,
    /// `kvm` or `tcg`.
    pub(super) accelerator: &'static str,
    pub(super) memory_mib: u32,
    pub(super) cpus: u32,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) base: BaseImage,
}

/// What one VM of the kind has of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wiring<'a> {
    pub(super) disk: &'a Path,
    /// Ends of socketpairs: no path, no listener, nobody else can connect.
    pub(super) qmp: RawFd,
    pub(super) guest: RawFd,
    pub(super) console: RawFd,
}

/// How a VM comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    Boot,
    /// It boots to be saved, with its RAM in this file.
    Save(&'a Path),
    /// It waits for a saved state whose RAM this file has; what it changes is its own.
    Resume(&'a Path),
}

impl Machine {
    /// QEMU's command line.
    pub(super) fn arguments(
        &self,
        wiring: Wiring<'_>,
        beginning: Beginning<'_>,
    ) -> Result<Vec<String>, VmError> {
        let Wiring { disk, qmp, guest, console } = wiring;
        let mut arguments = words(
            "-nodefaults -no-user-config -display none -no-reboot -cpu max \
             -machine pc,usb=off,vmport=off,hpet=off,memory-backend=ram \
             -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        let mut add = |option: &str, value: String| {
            arguments.extend([option.to_owned(), value]);
        };
        add("-accel", self.accelerator.to_owned());
        add("-smp", self.cpus.to_string());
        add("-m", self.memory_mib.to_string());
        add("-object", self.memory(beginning)?);
        add("-kernel", text(&self.kernel)?.to_owned());
        add("-initrd", text(&self.initramfs)?.to_owned());
        add("-append", APPEND.to_owned());
        // The backing file is what we say, whatever the disk's header says.
        add("-blockdev", self.base_node()?);
        add("-blockdev", disk_node(disk)?);
        add("-device", "virtio-blk-pci,drive=disk".to_owned());
        add("-chardev", format!("socket,id=qmp,fd={qmp}"));
        add("-mon", "chardev=qmp,mode=control".to_owned());
        add("-device", "virtio-serial-pci,max_ports=2".to_owned());
        add("-chardev", format!("socket,id=guest,fd={guest}"));
        add("-device", "virtserialport,chardev=guest,name=overlay-pool".to_owned());
        add("-chardev", format!("socket,id=console,fd={console}"));
        add("-serial", "chardev:console".to_owned());
        // A new one for each process: the guest's kernel reseeds its generator when it changes.
        add("-device", "vmgenid,guid=auto".to_owned());
        if matches!(beginning, Beginning::Resume(_)) {
            add("-incoming", "defer".to_owned());
        }
        Ok(arguments)
    }

    fn memory(&self, beginning: Beginning<'_>) -> Result<String, VmError> {
        let size = u64::from(self.memory_mib) << 20;
        let mut memory = json!({ "qom-type": "memory-backend-ram", "id": "ram", "size": size });
        let own = match beginning {
            Beginning::Boot => json!({}),
            Beginning::Save(file) => json!({ "mem-path": text(file)?, "share": true }),
            // A private mapping of a file that can't be written to.
            Beginning::Resume(file) => json!({
                "mem-path": text(file)?, "share": false, "readonly": true, "rom": "off",
            }),
        };
        if let (Some(memory), Value::Object(own)) = (memory.as_object_mut(), own)
            && !own.is_empty()
        {
            memory.insert("qom-type".to_owned(), "memory-backend-file".into());
            memory.extend(own);
        }
        Ok(memory.to_string())
    }

    fn base_node(&self) -> Result<String, VmError> {
        let file = json!({
            "driver": "file", "filename": text(self.base.path())?, "read-only": true,
        });
        let node = json!({
            "driver": self.base.format().as_str(),
            "node-name": "base",
            "read-only": true,
            "file": file,
        });
        Ok(node.to_string())
    }
}

fn disk_node(disk: &Path) -> Result<String, VmError> {
    let node = json!({
        "driver": Format::Qcow2.as_str(),
        "node-name": "disk",
        "backing": "base",
        "file": { "driver": "file", "filename": text(disk)? },
    });
    Ok(node.to_string())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn text(path: &Path) -> Result<&str, VmError> {
    path.to_str().ok_or_else(|| VmError::NotUtf8(path.to_owned()))
}
