//! The pool for other programs: HTTP over a Unix socket.
//!
//! [`Server`] serves an [`OverlayPool`](crate::OverlayPool) to the clients of a socket;
//! [`openapi()`] describes what they can ask for. Which files they may name is up to [`Access`],
//! how much of the server they may use to [`Limits`]. [`Client`] asks it.
//!
//! Every error is a [`Problem`], but for what is no HTTP/1.1 or has too long a head: that hyper
//! refuses with a bare status, 400 or 431, before any of this is asked.

mod acceptor;
mod access;
mod acquire;
mod bases;
mod client;
mod connection;
mod extract;
mod metrics;
mod openapi;
mod peers;
mod problem;
mod refusals;
mod roots;
mod server;
mod status;

pub use access::{Access, AccessError};
pub use acquire::{AcquireAnswer, AcquireRequest, BaseRequest, OpenAnswer, OpenRequest};
pub use bases::{BaseAdded, Removed};
pub use client::{Client, ClientError};
pub use openapi::openapi;
pub use problem::Problem;
pub use server::{Limits, Server};
