//! Guides, for documentation alone: whoever reads them wants to get something done. Their Rust is
//! tested as documentation is, and their shell by a test of the suite where it says `tried`.
//!
//! - [`first_pool`]: a pool in a program.
//! - [`sandbox`]: code of strangers in VMs.
//! - [`ci_runner`]: a fresh disk for each job of a runner.
//! - [`server`]: who may use it, its limits, disks with an id, and code over HTTP.
//! - [`service`]: systemd and NixOS.
//! - [`registries`]: base images from OCI registries.
//! - [`operating`]: metrics, alerts, sizing, space, upgrades, and what to do after each error.
//! - [`kubernetes`]: disks for Pods, by a CSI driver.
//! - [`fleet`]: how long many hosts take to get their images.
//! - [`trust`]: what is trusted, and why.
//!
//! What isn't here is generated, so that it is never written twice: commands and options by
//! `overlay-pool COMMAND --help` and `overlay-pool man`, HTTP by `overlay-pool openapi`, and a
//! server's configuration file has the names of `overlay-pool serve --help`.

#[doc = include_str!("first_pool.md")]
pub mod first_pool {}

#[cfg(feature = "vm")]
#[doc = include_str!("sandbox.md")]
pub mod sandbox {}

#[cfg(feature = "client")]
#[doc = include_str!("ci_runner.md")]
pub mod ci_runner {}

#[doc = include_str!("server.md")]
pub mod server {}

#[doc = include_str!("service.md")]
pub mod service {}

#[doc = include_str!("registries.md")]
pub mod registries {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("kubernetes.md")]
pub mod kubernetes {}

#[doc = include_str!("fleet.md")]
pub mod fleet {}

#[doc = include_str!("trust.md")]
pub mod trust {}

/// What README says in Rust.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub mod readme {}
