//! `/v1/vms`: VMs that their users keep.

use serde_json::{Value, json};

use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::vm_server::{self, Ran, begin, next};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

const SLEEPS: &str = "print('begun', flush=True)\nimport time\ntime.sleep(1000)";

/// A VM of Python, and the path at which it is asked.
#[track_caller]
fn create(server: &Server) -> (Value, String) {
    let answer = server.post("/v1/vms", &json!({ "language": "python" }));
    assert_eq!(answer.status, 201, "{answer:?}");
    let vm = answer.json();
    let path = format!("/v1/vms/{}", vm["id"].as_str().expect("an id"));
    assert_eq!(answer.header("location"), Some(&*path));
    (vm, path)
}

#[track_caller]
fn prints(server: &Server, path: &str, code: &str) -> String {
    Ran::of(&server.post(&format!("{path}/execute"), &json!({ "code": code }))).printed()
}

fn delete(server: &Server, path: &str) -> u16 {
    server.client().ask("DELETE", path, None).expect("an answer").status
}

#[apply(test)]
async fn one_program_finds_what_the_one_before_left(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let (vm, path) = create(&server);
    assert_eq!(server.get(&path).json(), vm);
    assert_eq!(server.get("/v1/vms").json(), json!([vm]));
    prints(&server, &path, "open('/root/file', 'w').write('left')");
    assert_eq!(prints(&server, &path, "print(open('/root/file').read())"), "left\n");

    let (mut client, _) = begin(&server, &format!("{path}/execute"), &json!({ "code": SLEEPS }));
    assert_eq!(server.get(&path).json()["state"], "executing");
    let busy = server.post(&format!("{path}/execute"), &json!({ "code": "" }));
    assert_eq!(busy.problem(409), "vm-busy");
    assert_eq!(delete(&server, &path), 204);
    // Who waited for the program hears of its end.
    let last = next(&mut client).expect("an event");
    assert_eq!(last["event"], "failed", "{last}");
    assert_eq!(last["problem"]["error"], "unknown-vm", "{last}");
    assert!(next(&mut client).is_none());
    assert_eq!(server.get(&path).problem(404), "unknown-vm");
    assert_eq!(delete(&server, &path), 404);
    assert!(server.children().is_empty());
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Its program ends with the connection, and the VM lives on.
#[apply(test)]
async fn a_client_that_goes_away_ends_its_program_alone(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let (_, path) = create(&server);
    let (client, _) = begin(&server, &format!("{path}/execute"), &json!({ "code": SLEEPS }));
    drop(client);
    eventually("it is ready again", || server.get(&path).json()["state"] == "ready").await;
    let code = "import os
def command(pid):
    try: return open(f'/proc/{pid}/cmdline').read()
    except OSError: return ''  # it has ended
print(sum('python' in command(pid) for pid in os.listdir('/proc') if pid.isdigit()))";
    // This one, and perhaps the next that waits.
    assert!(["1\n", "2\n"].contains(&&*prints(&server, &path, code)));
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn one_that_nobody_uses_is_ended(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--session-idle", "2s"]);
    let (vm, path) = create(&server);
    assert_eq!(vm["idle_seconds"], 2.0);
    // No shorter than what runs in it.
    let code = "import time\ntime.sleep(4)\nprint('well')";
    assert_eq!(prints(&server, &path, code), "well\n");
    eventually("it is ended", || server.get(&path).status == 404).await;
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    let less = server.post("/v1/vms", &json!({ "language": "python", "idle_seconds": 0.5 }));
    assert_eq!(less.json()["idle_seconds"], 0.5);
    let more = server.post("/v1/vms", &json!({ "language": "python", "idle_seconds": 60 }));
    assert_eq!(more.json()["idle_seconds"], 2.0);
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// What a program does to its VM ends the session, and those who wait are told.
#[apply(test)]
async fn one_whose_guest_dies_is_forgotten(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let (_, path) = create(&server);
    let code = "open('/proc/sysrq-trigger', 'w').write('c')";
    let ran = Ran::of(&server.post(&format!("{path}/execute"), &json!({ "code": code })));
    let last = ran.last();
    assert_eq!(last["event"], "failed", "{last}");
    assert_eq!(last["problem"]["error"], "vm-failed", "{last}");
    eventually("it is forgotten", || server.get(&path).status == 404).await;
    assert_eq!(server.get("/v1/vms").json(), json!([]));
    server.stop();
    assert_no_vm_left(&scratch).await;
}
