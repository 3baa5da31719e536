//! Pure logic: no files, no processes.

mod bench;
mod header;
mod house;
mod overlay;
