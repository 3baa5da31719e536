//! Judges a pool of ready qcow2 overlays, whatever language it is written in.
//!
//! A port brings a shim, a small program that speaks the protocol of `SHIM.md`; the cases in
//! `cases` are run against it, each in a process of its own, and show whether it keeps what
//! `CONTRACT.md` promises. This crate knows the contract, the protocol and qcow2, and no pool.
//!
//! The program is [`program::main`]; [`isolation::judge`] judges by one case.

mod acquires;
mod answers;
pub mod capability;
pub mod case;
pub mod cases;
mod contest;
pub mod contract;
mod disturb;
mod export;
pub mod faults;
pub mod finding;
mod folder;
pub mod host;
pub mod id;
pub mod isolation;
pub mod level;
mod look;
pub mod port;
pub mod processes;
pub mod program;
mod qemu;
mod report;
mod restock;
mod run;
pub mod shim;
mod step;
mod transcript;
mod under_way;
mod unshare;
pub mod verdict;
mod world;
