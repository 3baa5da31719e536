//! Real files, real QEMU.

mod acquire;
mod base;
mod bytes;
mod cli;
mod daemon;
mod lifecycle;
mod requirements;
mod restock;
