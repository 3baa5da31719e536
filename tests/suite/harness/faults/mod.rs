//! Fault makers: each makes the kernel fail a process under test, and nothing outside of it.
//!
//! What a single call from outside makes (a full disk, another filesystem, a removed file, a
//! changed mode) the cases of `fixtures/conformance` make.

pub(crate) mod busy;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod fuse;
pub(crate) mod memory;
pub(crate) mod strace;
