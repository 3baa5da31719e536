//! `cargo bench --bench images`: a pull from a registry beside `cp` and `sha256sum` of the same file.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("images")
}
