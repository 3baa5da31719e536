//! Real files, real QEMU.

mod acquire;
mod base;
mod bases;
mod bench;
mod bytes;
mod cli;
mod daemon;
mod lifecycle;
mod model;
mod qmp;
mod requirements;
mod restock;
mod second_opinion;
mod server;
mod vm;
