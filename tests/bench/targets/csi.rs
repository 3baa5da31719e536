//! `cargo bench --bench csi`: volumes of Kubernetes, through gRPC and the server's socket.

#[path = "../mod.rs"]
mod bench;

fn main() -> std::process::ExitCode {
    bench::main("csi")
}
