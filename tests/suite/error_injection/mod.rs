//! Failures that can't be had otherwise: made by fake tools that are real programs, and by the
//! kernel.

mod attacks;
mod chaos;
mod clock;
mod creators;
mod descriptors;
mod endurance;
mod ground;
mod hidden_files;
mod leases;
mod life;
mod low_space;
mod memory;
mod open_files;
mod operations;
mod server_chaos;
mod slow_disk;
mod unnamed_files;
