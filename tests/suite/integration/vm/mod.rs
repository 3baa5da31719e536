//! VMs on pooled overlays.

mod cgroups;
mod command;
mod containment;
mod disk_size;
mod exec_server;
mod fault;
mod http;
mod http_disks;
mod http_fault;
mod killed;
mod languages;
mod lifecycle;
mod own_disk;
mod python_client;
mod quotas;
mod randomness;
mod resume;
mod run;
mod sessions;
mod unit;
mod warm;
