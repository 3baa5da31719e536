//! What is answered with 200 lies where the client looks for it.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// A deploy moves the targets' directory away and makes it anew.
#[apply(test)]
fn a2_targets_directory_moved_away_and_made_again(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    let mut client = server.client();
    let mut acquire = |name: &str| {
        let request = json!({ "base": base, "target": vms.join(name) });
        client.post("/v1/acquire", &request).expect("an answer")
    };
    assert_eq!(acquire("0").status, 200);
    std::fs::rename(&vms, scratch.join("old")).expect("moved away");
    assert_eq!(acquire("1").problem(404), "bad-target");
    std::fs::create_dir(&vms).expect("made again");
    assert_eq!(acquire("2").status, 200);
    assert!(vms.join("2").exists(), "a file that nobody sees");
    assert_eq!(std::fs::read_dir(scratch.join("old")).expect("the old one").count(), 1);
}

/// A filesystem is mounted over the targets' directory of a server that runs.
#[apply(test)]
#[needs(MountNamespace)]
fn a2_targets_directory_mounted_over(scratch: Scratch) {
    server::one_base(&scratch);
    let script = "(until [ -e go ]; do sleep 0.01; done
                   mount -t tmpfs tmpfs vms; : >mounted
                   until [ -e look ]; do sleep 0.01; done
                   ls vms >seen.tmp; mv seen.tmp seen) </dev/null >/dev/null 2>&1 &
                  exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(&scratch)).env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch(&scratch, command.current_dir(&*scratch));
    server.await_ready();
    let touch = |name: &str| std::fs::write(scratch.join(name), "").expect("a file");
    let acquire = |server: &Server, name: &str| {
        server.acquire(&server::base(&scratch), &server::vms(&scratch).join(name)).status
    };
    assert_eq!(acquire(&server, "under"), 200);
    touch("go");
    server.await_that("it is mounted", |_| scratch.join("mounted").exists());
    assert_eq!(acquire(&server, "over"), 200);
    touch("look");
    server.await_that("it was looked at", |_| scratch.join("seen").exists());
    assert_eq!(read(&scratch.join("seen")), "over\n");
    assert!(!server::vms(&scratch).join("over").exists(), "it is seen in that namespace alone");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}
