//! `cargo bench --bench ready`: acquires from a pool with 100,000 ready overlays, in turns with one that has 100.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("ready")
}
