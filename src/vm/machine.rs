//! The machine that QEMU is to be.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::image::{BaseImage, Format};

const APPEND: &str = "console=ttyS0 quiet cryptomgr.notests mitigations=off init_on_alloc=0 \
                      tsc=reliable no_timer_check panic=-1";

/// How much of the guest's code TCG keeps translated, in MiB.
const TRANSLATIONS_MIB: u64 = 256;
/// What QEMU needs beside, the kernel that it loads included.
const QEMU_MIB: u64 = 256;

/// What QEMU calls the guest's disk.
pub(super) const DISK: &str = "disk";

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

/// The descriptors that one VM of the kind is given: all that it needs of the host's, QEMU's own
/// files aside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wiring {
    pub(super) files: Numbers,
    /// Ends of socketpairs: no path, no listener, nobody else can connect.
    pub(super) qmp: RawFd,
    pub(super) guest: RawFd,
    pub(super) console: RawFd,
}

/// The descriptors of its files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) disk: RawFd,
    pub(super) base: RawFd,
    pub(super) kernel: RawFd,
    pub(super) initramfs: RawFd,
    /// Those of the RAM and the devices.
    pub(super) state: Option<(RawFd, RawFd)>,
}

/// Where a saved state is, or shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateFiles {
    pub(super) ram: PathBuf,
    pub(super) devices: PathBuf,
}

/// How a VM comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning<'a> {
    Boot,
    /// It boots to be saved into these files.
    Save(&'a StateFiles),
    /// It waits for the state that these files have; what it changes is its own.
    Resume(&'a StateFiles),
}

impl Machine {
    /// QEMU's command line.
    pub(super) fn arguments(&self, wiring: Wiring, beginning: Beginning<'_>) -> Vec<String> {
        let Wiring { files, qmp, guest, console } = wiring;
        let mut arguments = words(
            "-nodefaults -no-user-config -display none -no-reboot -cpu max \
             -machine pc,usb=off,vmport=off,hpet=off,memory-backend=ram \
             -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        let mut add = |option: &str, value: String| {
            arguments.extend([option.to_owned(), value]);
        };
        add("-accel", self.accelerator());
        let devices = files.state.map(|(_, devices)| devices);
        for fd in [files.disk, files.base].into_iter().chain(devices) {
            add("-add-fd", format!("fd={fd},set={fd}"));
        }
        add("-smp", self.cpus.to_string());
        add("-m", self.memory_mib.to_string());
        add("-object", self.memory(files, beginning));
        add("-kernel", opened(files.kernel));
        add("-initrd", opened(files.initramfs));
        add("-append", APPEND.to_owned());
        // The backing file is what we say, whatever the disk's header says.
        add("-blockdev", self.base_node(files.base));
        add("-blockdev", disk_node(files.disk));
        add("-device", format!("virtio-blk-pci,drive={DISK}"));
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
        arguments
    }

    fn accelerator(&self) -> String {
        match self.accelerator {
            "tcg" => format!("tcg,tb-size={TRANSLATIONS_MIB}"),
            accelerator => accelerator.to_owned(),
        }
    }

    /// How much memory QEMU needs at most, in MiB.
    pub(super) fn most_memory_mib(&self) -> u64 {
        let translations = if self.accelerator == "tcg" { TRANSLATIONS_MIB } else { 0 };
        u64::from(self.memory_mib) + translations + QEMU_MIB
    }

    fn memory(&self, files: Numbers, beginning: Beginning<'_>) -> String {
        let size = u64::from(self.memory_mib) << 20;
        let mut memory = json!({ "qom-type": "memory-backend-ram", "id": "ram", "size": size });
        let path = files.state.map(|(ram, _)| opened(ram));
        let own = match beginning {
            Beginning::Boot => json!({}),
            Beginning::Save(_) => json!({ "mem-path": path, "share": true }),
            // A private mapping of a file that can't be written to.
            Beginning::Resume(_) => json!({
                "mem-path": path, "share": false, "readonly": true, "rom": "off",
            }),
        };
        if let (Some(memory), Value::Object(own)) = (memory.as_object_mut(), own)
            && !own.is_empty()
        {
            memory.insert("qom-type".to_owned(), "memory-backend-file".into());
            memory.extend(own);
        }
        memory.to_string()
    }

    fn base_node(&self, fd: RawFd) -> String {
        let file = json!({ "driver": "file", "filename": in_set(fd), "read-only": true });
        let node = json!({
            "driver": self.base.format().as_str(),
            "node-name": "base",
            "read-only": true,
            "file": file,
        });
        node.to_string()
    }
}

fn disk_node(fd: RawFd) -> String {
    let node = json!({
        "driver": Format::Qcow2.as_str(),
        "node-name": DISK,
        "backing": "base",
        "file": { "driver": "file", "filename": in_set(fd) },
    });
    node.to_string()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The name of a descriptor for what QEMU opens by itself: so the file must be this user's to open,
/// the directories above it need not.
fn opened(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

/// The name of a descriptor that QEMU takes as it is.
pub(super) fn in_set(fd: RawFd) -> String {
    format!("/dev/fdset/{fd}")
}
