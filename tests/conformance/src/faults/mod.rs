//! Fault makers: each makes the kernel fail a process under test, and nothing outside of it.

pub mod busy;
pub mod descriptors;
pub mod fuse;
