//! Real files, real QEMU.

mod acquire;
mod cli;
mod requirements;
