//! Real files, real QEMU.

mod acquire;
mod base;
mod bytes;
mod lifecycle;
mod requirements;
