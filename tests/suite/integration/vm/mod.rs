//! VMs on pooled overlays.

mod command;
mod fault;
mod lifecycle;
mod randomness;
mod resume;
mod run;
mod warm;
