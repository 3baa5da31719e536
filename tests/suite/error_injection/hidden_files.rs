//! What has a hidden name among the callers' files for a moment, and keeps it if the process is
//! killed in that moment, is removed by the next server.

use std::fs::{File, FileTimes};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::harness::prelude::*;
use crate::harness::scratch::names;
use crate::harness::server::{self, Server, base, vms};

/// The program under strace, which does so at calls that concern the targets' directory.
fn program(scratch: &Path, faults: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(scratch.join("strace.log"));
    command.args(["-e", "trace=openat,renameat2,unlinkat"]);
    for fault in faults {
        command.arg("-e").arg(format!("inject={fault}:when=1"));
    }
    command.arg("-P").arg(vms(scratch)).arg(env!("CARGO_BIN_EXE_overlay-pool"));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    command
}

/// Starts a server that makes so many overlays ahead, and ends it.
fn serve(scratch: &Path, ahead: &str) {
    // What a killed one left is in the way.
    let _ = std::fs::remove_file(server::socket(scratch));
    let mut command = Server::command(scratch);
    command.args(["--max-vms", ahead, "--base"]).arg(base(scratch));
    let mut server = Server::launch(scratch, command.arg("--targets").arg(vms(scratch)));
    server.await_ready();
    server.stop();
}

/// A server is killed right after it moved a file to the targets to see whether it can.
#[apply(test)]
#[needs(Strace)]
fn a_server_that_tries_its_targets_is_killed(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = program(&scratch, &["unlinkat:signal=KILL"]);
    command.arg("serve").args(server::one_base_args(&scratch));
    assert!(!Server::launch(&scratch, &mut command).wait().success());
    let left = names(&vms(&scratch));
    assert!(left.len() == 1 && left[0].contains(".trial"), "not killed at that moment: {left:?}");
    serve(&scratch, "1");
    assert_eq!(names(&vms(&scratch)), [""; 0]);
}

/// On a filesystem that has no unnamed files, a process is killed while it makes an overlay. Another
/// may be making one as well: its draft stays, until it is an hour old.
#[apply(test)]
#[needs(Strace)]
fn a_process_that_makes_an_overlay_is_killed(scratch: Scratch, #[values("0", "1")] ahead: &str) {
    server::one_base(&scratch);
    let faults = ["openat:error=EOPNOTSUPP", "renameat2:signal=KILL"];
    let mut command = program(&scratch, &faults);
    let status = command.args(["create", "--creator", "native"]).arg(base(&scratch));
    assert!(!status.arg(vms(&scratch).join("vm")).status().expect("strace runs").success());
    let left = names(&vms(&scratch));
    assert!(left.len() == 1 && left[0].contains(".draft"), "not killed at that moment: {left:?}");
    let grow_old = |name: &str| {
        let long_ago = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
        let file = File::options().append(true).open(vms(&scratch).join(name)).expect("a file");
        file.set_times(FileTimes::new().set_modified(long_ago)).expect("its times");
    };
    // A caller's own, whatever they are called.
    let digits = "0".repeat(32);
    let mut owns = [format!(".{digits}.trial"), format!(".{digits}0.draft"), "vm.draft".to_owned()];
    owns.sort();
    for own in &owns {
        std::fs::write(vms(&scratch).join(own), "precious").expect("a file");
        grow_old(own);
    }

    serve(&scratch, ahead);
    assert_eq!(names(&vms(&scratch)).len(), 1 + owns.len(), "a living one may be making it");
    grow_old(&left[0]);
    serve(&scratch, ahead);
    assert_eq!(names(&vms(&scratch)), owns);
}

/// What the next server would take for a killed one's is nobody's disk: none is handed over there.
#[apply(test)]
fn no_disk_under_a_name_that_is_removed(
    scratch: Scratch,
    #[values("draft", "trial")] kind: &str,
    #[values(None, Some("vm"))] id: Option<&str>,
) {
    let server = Server::of_one_base(&scratch);
    let target = vms(&scratch).join(format!(".{}.{kind}", "0".repeat(32)));
    let mut wanted = json!({ "base": base(&scratch), "target": target });
    if let Some(id) = id {
        wanted["id"] = json!(id);
    }
    let refused = server.post("/v1/acquire", &wanted);
    assert_eq!(refused.problem(422), "bad-target");
    assert!(refused.body.contains("choose another"), "{refused:?}");
    // What is there comes before (rule A1).
    std::fs::write(&target, "precious").expect("a file");
    assert_eq!(server.post("/v1/acquire", &wanted).problem(409), "already-exists");
    server.stop();
}
