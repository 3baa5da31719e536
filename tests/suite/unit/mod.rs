//! Pure logic: no files, no processes.

mod header;
mod house;
mod overlay;
