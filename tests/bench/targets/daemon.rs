//! `cargo bench --bench daemon`: the storage-daemon creator, in turns with its QMP commands sent bare.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("daemon")
}
