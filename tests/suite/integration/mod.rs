//! Real files, real QEMU.

mod acquire;
mod artefacts;
mod base;
mod bases;
mod bench;
mod bytes;
mod cli;
mod daemon;
mod guides;
mod lifecycle;
mod model;
mod open;
mod outside;
mod qmp;
mod replaced;
mod requirements;
mod restock;
mod running;
mod second_opinion;
mod seeds;
mod server;
mod strangers;
mod under_way;
mod vm;
