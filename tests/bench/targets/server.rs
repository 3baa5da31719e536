//! `cargo bench --bench server`: a server under the load of 64 clients, in turns with a pool in the clients' process.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("server")
}
