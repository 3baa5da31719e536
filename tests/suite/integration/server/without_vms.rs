//! A server that runs no VMs.

use serde_json::json;

use crate::harness::prelude::*;
use crate::harness::server::Server;

#[apply(test)]
fn it_says_so(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let program = json!({ "language": "python", "code": "" });
    assert_eq!(server.post("/v1/execute", &program).problem(404), "no-vms");
    assert_eq!(server.get("/v1/vms").problem(404), "no-vms");
    assert_eq!(server.post("/v1/vms", &json!({ "language": "python" })).problem(404), "no-vms");
    assert_eq!(server.get("/v1/vms/any").problem(404), "no-vms");
    server.stop();
}
