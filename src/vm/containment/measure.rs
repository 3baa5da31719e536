//! What contains VMs, told.

use serde::Serialize;

/// One of the things that contain a VM's QEMU, and whether it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measure {
    /// What it is about.
    pub what: &'static str,
    /// Whether it is in force.
    pub in_force: bool,
    /// What is in force, or why it isn't.
    pub found: String,
    /// What to do for it to be in force; nothing if it is.
    pub advice: &'static str,
}

impl Measure {
    pub(super) fn in_force(what: &'static str, found: String) -> Self {
        Self { what, in_force: true, found, advice: "" }
    }

    pub(super) fn missing(
        what: &'static str,
        found: impl Into<String>,
        advice: &'static str,
    ) -> Self {
        Self { what, in_force: false, found: found.into(), advice }
    }
}
