//! The pool for other programs: HTTP over a Unix socket.
//!
//! [`Server`] serves an [`OverlayPool`](crate::OverlayPool) to the clients of a socket;
//! [`openapi()`] describes what they can ask for. Which files they may name is up to [`Access`],
//! how much of the server they may use to [`Limits`].

mod access;
mod acquire;
mod bases;
mod connection;
mod extract;
mod metrics;
mod openapi;
mod peers;
mod problem;
mod refusals;
mod server;
mod status;

pub use access::{Access, AccessError};
pub use acquire::{AcquireAnswer, AcquireRequest, BaseRequest, OpenAnswer, OpenRequest};
pub use bases::{BaseAdded, Removed};
pub use openapi::openapi;
pub use problem::Problem;
pub use server::{Limits, Server};
