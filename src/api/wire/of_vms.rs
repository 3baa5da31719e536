//! VMs of this process, as they go over the wire.

use super::vms::{Language, PhaseSeconds, VmStart};
use crate::vm;

impl From<vm::Language> for Language {
    fn from(language: vm::Language) -> Self {
        language.as_str().into()
    }
}

impl From<vm::Start> for VmStart {
    fn from(start: vm::Start) -> Self {
        match start {
            vm::Start::Booted => Self::Booted,
            vm::Start::Resumed => Self::Resumed,
            vm::Start::Warm => Self::Warm,
        }
    }
}

impl From<vm::Phases> for PhaseSeconds {
    fn from(vm::Phases { overlay, spawn, boot, renew }: vm::Phases) -> Self {
        Self {
            overlay: overlay.as_secs_f64(),
            spawn: spawn.as_secs_f64(),
            boot: boot.as_secs_f64(),
            renew: renew.as_secs_f64(),
        }
    }
}
