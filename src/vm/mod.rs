//! VMs that boot on a pooled overlay and run code.
//!
//! [`VmManager`] takes each VM's disk from an [`OverlayPool`](crate::OverlayPool), starts QEMU on
//! it, and [`Vm::execute`] runs code in the guest through the supervisor that is its PID 1. A VM is
//! resumed from a state that was saved once for its base image, if that is possible, and booted
//! otherwise. As many as [`VmSettings::warm`] says wait for code, their interpreter started. On a
//! disk that its caller has ([`VmDisk`]) a VM boots, and what it changes stays.
//!
//! A VM has no network, and nothing of the host but its disk, which no other has. Its QEMU process
//! dies with the process that started it.

mod accelerator;
mod alive;
mod autopsy;
mod console;
mod containment;
mod disk;
mod disk_error;
mod error;
mod execution;
mod files;
mod guest;
mod handle;
mod hashes;
mod home;
mod images;
mod interpreter;
mod keep;
mod key;
pub mod kvm;
mod language;
mod languages;
mod languages_file;
mod launch;
mod machine;
mod manager;
mod newest;
mod own_disk;
mod private_file;
mod program;
mod qemu;
mod settings;
mod state;
mod states;
mod tenancy;
mod variable;
mod warm;
mod workshop;

/// What the names of VMs' directories begin with.
pub const PREFIX: &str = "vm-";
/// What the names begin with of what is being made among the saved states.
pub const DRAFT_PREFIX: &str = "draft-";

pub use accelerator::Accelerator;
pub use alive::{Phases, Start};
pub use containment::{Measure, containment, sweep_cgroups};
pub use disk::VmDisk;
pub use disk_error::{DiskError, Unfit};
pub use error::VmError;
pub use execution::{End, Execution, Outcome, Output};
pub use guest::{GuestError, Stream};
pub use handle::Vm;
pub use images::{FileCheck, ImagesError, Manifest};
pub use language::Language;
pub use languages::{Languages, UnknownLanguage};
pub use languages_file::LanguagesError;
pub use manager::VmManager;
pub use own_disk::OwnDisk;
pub use program::Program;
pub use settings::VmSettings;
pub use state::VmState;
pub use variable::SettingsError;
pub use warm::WarmStats;
pub use workshop::can_resume;
