//! The command line, as its users meet it.

mod create;
mod doctor;
mod gc;
mod general;
mod inspect;
