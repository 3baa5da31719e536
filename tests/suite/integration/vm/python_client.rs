//! The client in Python, and code in VMs.

use std::path::Path;
use std::process::Command;

use crate::harness::cli::run;
use crate::harness::prelude::*;
use crate::harness::python::program;
use crate::harness::vm_server;
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator, Need::Python];

#[apply(test)]
#[case::threads("Threads")]
#[case::asyncio("Asyncio")]
async fn it_runs_code_and_keeps_vms(scratch: Scratch, #[case] client: &str) {
    let server = vm_server::start(&scratch, 2, &[]);
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/clients/python");
    let mut command = Command::new(program("python3"));
    // A file or socket that isn't closed is a warning.
    command.args(["-B", "-W", "error"]).arg(clients.join("tests/test_vms.py")).arg(client);
    command.env("PYTHONPATH", clients.join("src")).env("OVERLAY_POOL_SOCKET", server.socket());
    let answer = run(command.current_dir(&scratch));
    assert_eq!(answer.code, Some(0), "{answer}");
    assert!(!answer.stderr.contains("Ran 0 tests") && answer.stderr.contains("OK"), "{answer}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}
