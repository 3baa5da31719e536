//! VMs on pooled overlays.

mod command;
mod exec_server;
mod fault;
mod http;
mod http_fault;
mod lifecycle;
mod python_client;
mod quotas;
mod randomness;
mod resume;
mod run;
mod sessions;
mod warm;
