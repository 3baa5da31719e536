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
mod outside;
mod qmp;
mod requirements;
mod restock;
mod second_opinion;
mod seeds;
mod strangers;
mod under_way;
mod vm;
