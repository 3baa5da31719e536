//! The pool as a service: a real server, real sockets.

mod lifecycle;
