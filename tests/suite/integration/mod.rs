//! Real files, real QEMU.

mod acquire;
mod requirements;
