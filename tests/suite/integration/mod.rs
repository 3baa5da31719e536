//! Real files, real QEMU.

mod acquire;
mod base;
mod bytes;
mod daemon;
mod lifecycle;
mod model;
mod qmp;
mod requirements;
mod restock;
mod second_opinion;
