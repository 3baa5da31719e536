//! `overlay-pool-conformance`: see `--help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    overlay_pool_conformance::program::main(std::env::args_os())
}
