//! One file a subcommand.

pub(crate) mod conformance;
pub(crate) mod shim;
