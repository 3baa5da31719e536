//! The pool for other programs: HTTP over a Unix socket.
//!
//! [`Server`] serves an [`OverlayPool`](crate::OverlayPool) to the clients of a socket;
//! [`openapi()`] describes what they can ask for. Which files they may name is up to [`Access`],
//! how much of the server they may use to [`Limits`]. [`Client`] asks it.
//!
//! Every error is a [`Problem`], but for what is no HTTP/1.1 or has too long a head: that hyper
//! refuses with a bare status, 400 or 431, before any of this is asked.

#[cfg(feature = "client")]
mod client;
mod descriptors;
#[cfg(feature = "server")]
mod server;
mod wire;

#[cfg(feature = "client")]
pub use client::{Client, ClientError, Opened, Running};
#[cfg(all(feature = "server", feature = "vm"))]
pub use server::VmLimits;
#[cfg(feature = "server")]
pub use server::{
    Access, AccessError, LEASES, Limits, PREFIX, Server, leased_bases, leases_seal, look_again,
    openapi,
};
pub use wire::{
    AcquireAnswer, AcquireRequest, BaseAdded, BaseRequest, BaseState, Data, EndReason, Event,
    ExecuteRequest, Label, LabelError, Language, Lease, OpenAnswer, OpenRequest, PhaseSeconds,
    Problem, ProgramLimits, Removed, RunRequest, Source, Stats, VmInfo, VmRequest, VmStart,
};
