//! `cargo bench --bench vm`: code in VMs that boot, are resumed, and waited.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("vm")
}
