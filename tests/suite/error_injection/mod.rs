//! Failures that can't be had otherwise: made by fake tools that are real programs, and by the
//! kernel.

mod chaos;
mod creators;
mod ground;
mod life;
mod operations;
mod server_chaos;
mod unnamed_files;
