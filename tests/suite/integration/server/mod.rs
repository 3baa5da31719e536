//! The pool as a service: a real server, real sockets.

mod lifecycle;
mod metrics;
mod names;
mod openapi;
mod schemathesis;
