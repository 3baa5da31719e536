//! Real files, real QEMU.

mod acquire;
mod base;
mod bytes;
mod requirements;
