//! Fault makers: each makes the kernel fail a process under test, and nothing outside of it.
//!
//! A fault around the whole life of the process is a prefix of its command line; one that comes
//! while it runs is a function that takes its process id. What a single call from outside makes
//! (a full disk, a removed file, a changed mode) the cases of `fixtures/conformance` make.

pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod strace;
