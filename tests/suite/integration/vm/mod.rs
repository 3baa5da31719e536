//! VMs on pooled overlays.

mod command;
mod fault;
mod lifecycle;
mod resume;
mod run;
