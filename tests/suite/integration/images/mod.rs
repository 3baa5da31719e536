//! Base images of registries, with a real one.

mod bench;
mod broken_off;
mod hostile;
mod kept;
mod killed;
mod needed;
mod pull;
mod serve;
mod tls;
