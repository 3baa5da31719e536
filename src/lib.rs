//! A pool of ready qcow2 overlays for instant VM boot.
//!
//! A VM needs a disk of its own: a small copy-on-write *overlay* over a shared, read-only *base
//! image*. [`OverlayPool`] keeps finished overlays of every base image ready, so that getting
//! one is a single atomic `rename`; when none is ready one is made on demand.
//!
//! - [`OverlayPool`], [`PoolConfig`]: the pool. It follows a written contract whose rules have
//!   ids (S1, A4, …); the documentation names them.
//! - [`creator`]: three ways to make an overlay.
//! - [`image`]: base images, the qcow2 header, and the bytes of an empty overlay.
//! - `api`: the pool for other programs, over HTTP on a Unix socket: with the feature `client` a
//!   client, with `server` the server.
//! - `csi`: overlays as ephemeral volumes of Kubernetes (feature `csi`).
//! - `vm`: VMs on pooled overlays that run code, and whether KVM can really run a guest (feature
//!   `vm`).
//! - `images`: base images of OCI registries, by digest (feature `images`).
//!
//! - `guides`: how to get something done, from a first pool to a service and its operation.
//!
//! The default feature, `cli`, is for the program `overlay-pool` and has all of these. A program
//! that only wants the pool turns the default features off.
//!
//! Linux only. Events are reported through [`tracing`].

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(any(feature = "csi", feature = "server"))]
mod claims;
mod error;
#[cfg(any(feature = "images", feature = "vm"))]
mod hex;
mod pool;
mod process;
mod qmp;
#[cfg(any(feature = "csi", feature = "server"))]
mod scrape;
mod sys;
mod worker;

#[cfg(any(feature = "client", feature = "server"))]
pub mod api;
pub mod creator;
#[cfg(feature = "csi")]
pub mod csi;
#[cfg(any(doc, doctest))]
pub mod guides;
pub mod image;
#[cfg(feature = "images")]
pub mod images;
/// For the crate's own binary, and no part of the interface.
#[doc(hidden)]
pub mod paths;
pub mod place;
#[cfg(feature = "vm")]
pub mod vm;

pub use error::Error;
pub use place::Target;
pub use pool::{Acquired, BaseState, OverlayPool, PREFIX, PoolConfig, Source, Stats};
