//! A base image that is removed while an overlay of it is made.

use serde_json::json;

use crate::harness::fake_tool::script;
use crate::harness::prelude::*;
use crate::harness::scratch::record_names;
use crate::harness::server::{self, Server};
use crate::integration::server::names;

/// Who removes images looks before whether a disk needs them, and can't see one that isn't there yet:
/// so such a disk isn't handed over.
#[apply(test)]
#[needs(QemuImg)]
fn no_disk_without_its_base(scratch: Scratch, #[values(false, true)] by_id: bool) {
    server::one_base(&scratch);
    let tools = scratch.join("tools");
    std::fs::create_dir(&tools).expect("a folder");
    let (base, away) = (server::base(&scratch), scratch.join("away"));
    let take_away = format!("[ \"$1\" != create ] || mv {} {}", base.display(), away.display());
    let path = std::env::var("PATH").expect("a PATH");
    script(
        &tools.join("qemu-img"),
        &format!("PATH='{path}' qemu-img \"$@\" && {{ {take_away}; }}"),
    );
    let mut command = Server::command(&scratch);
    // Each is made on demand.
    let args = server::one_base_args(&scratch);
    command.args(args.iter().skip(2)).args(["--creator", "qemu-img", "--max-vms", "0"]);
    command.env("PATH", format!("{}:{path}", tools.display()));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let target = server::vms(&scratch).join("vm");
    let mut wanted = json!({ "base": base, "target": target });
    if by_id {
        wanted["id"] = json!("vm");
    }
    for _ in 0..2 {
        let refused = server.post("/v1/acquire", &wanted);
        assert!(away.exists(), "it was made, and then the base image was gone: {refused:?}");
        assert_eq!(refused.problem(404), "bad-base");
        assert_eq!(names(&server::vms(&scratch)), [""; 0]);
        assert_eq!(server.get("/v1/disks").json(), json!([]));
        let records = scratch.join("pool/leases");
        assert!(
            !records.exists() || record_names(&records).is_empty(),
            "a record of no disk is left"
        );
        std::fs::rename(&away, &base).expect("it is back");
    }
    server.stop();
}
