//! VMs that boot on a pooled overlay and run code.
//!
//! [`VmManager`] takes each VM's disk from an [`OverlayPool`](crate::OverlayPool), starts QEMU on
//! it, and [`Vm::execute`] runs code in the guest through QEMU's guest agent. A VM is resumed from
//! a state that was saved once for its base image, where that is possible, and booted otherwise.
//!
//! A VM has no network, and nothing of the host but its disk, which is its own. Its QEMU process
//! dies with the process that started it.

mod accelerator;
mod agent;
mod console;
mod error;
mod execution;
mod guest;
mod handle;
mod images;
mod key;
pub mod kvm;
mod language;
mod launch;
mod machine;
mod manager;
mod qemu;
mod saved;
mod settings;
mod state;
mod tenancy;

/// What the names of VMs' directories begin with.
pub const PREFIX: &str = "vm-";

pub use accelerator::Accelerator;
pub use agent::AgentError;
pub use error::VmError;
pub use execution::{End, Execution, Output};
pub use handle::{Phases, Start, Vm};
pub use images::{FileCheck, ImagesError, Manifest};
pub use language::Language;
pub use manager::VmManager;
pub use settings::{SettingsError, VmSettings};
pub use state::VmState;
