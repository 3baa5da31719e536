//! Real files, real QEMU.

mod acquire;
mod bench;
mod requirements;
