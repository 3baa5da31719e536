//! What the tiers share.

pub(crate) mod artefacts;
pub(crate) mod bench;
pub(crate) mod case;
pub(crate) mod cli;
pub(crate) mod delegated;
pub(crate) mod fake_tool;
pub(crate) mod faults;
pub(crate) mod http;
pub(crate) mod judge;
pub(crate) mod kubernetes;
pub(crate) mod manager;
pub(crate) mod node;
pub(crate) mod owner;
pub(crate) mod pool_process;
pub(crate) mod pools;
pub(crate) mod properties;
pub(crate) mod proxy;
pub(crate) mod python;
pub(crate) mod qcow2;
pub(crate) mod qemu;
pub(crate) mod registry;
pub(crate) mod requirements;
pub(crate) mod scratch;
pub(crate) mod server;
pub(crate) mod somebody;
pub(crate) mod stage;
pub(crate) mod systemd;
pub(crate) mod vm_server;
pub(crate) mod vms;
pub(crate) mod wait;

pub(crate) use overlay_pool_conformance::{processes, shim};

pub(crate) mod prelude {
    //! What every test file uses.

    pub(crate) use macro_rules_attribute::apply;
    pub(crate) use rstest::rstest;

    pub(crate) use super::case::{case, each_creator, test};
    pub(crate) use super::properties::properties;
    pub(crate) use super::requirements::{NEEDS, Need};
    pub(crate) use super::scratch::{Scratch, scratch, scratch_in_memory};
    pub(crate) use super::stage::{Stage, stage};
    pub(crate) use super::wait::eventually;
}
