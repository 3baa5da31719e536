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
//! - [`api`]: the pool for other programs, over HTTP on a Unix socket.
//! - [`vm`]: VMs on pooled overlays that run code, and whether KVM can really run a guest.
//!
//! Linux only. Events are reported through [`tracing`].

mod error;
mod pool;
mod process;
mod qmp;
mod sys;

pub mod api;
pub mod creator;
pub mod image;
pub mod vm;

pub use error::Error;
pub use pool::{
    Acquired, BaseState, Histogram, Leftover, Metrics, Opened, OverlayPool, PoolConfig,
    PoolDirError, Restocking, Source, Space, Stats, Sweep, Target, discover, sweep, try_pool_dir,
};
