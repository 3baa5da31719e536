//! The pool as a service: a real server, real sockets.

mod client;
mod examples;
mod killed_clients;
mod lifecycle;
mod strange_servers;
