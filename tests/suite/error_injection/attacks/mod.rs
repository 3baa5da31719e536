//! What was tried on the server, and must not work again.

mod bases;
mod hung_disk;
mod hung_up;
mod log;
mod releases;
mod roles;
mod sandbox;
mod socket;
mod states;
mod targets;
mod turns;
mod unreceived;
