//! `cargo bench --bench vm`: VMs that boot, in turns with VMs that are resumed.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("vm")
}
