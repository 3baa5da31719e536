//! VMs on pooled overlays.

mod command;
mod fault;
mod http;
mod lifecycle;
mod quotas;
mod randomness;
mod resume;
mod run;
mod sessions;
mod warm;
