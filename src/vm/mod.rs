//! What this machine has for running VMs.

pub mod kvm;
