//! VMs of a server on disks that their users acquired with an id.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::http::Response;
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::server::Server;
use crate::harness::somebody::as_somebody;
use crate::harness::vm_server::{self, Ran, begin};
use crate::harness::vms::{FINDS, LEAVES, LEAVES_AND_SLEEPS, assert_no_vm_left, hold, images};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// A server with VMs that hands disks of their base images over too.
#[track_caller]
fn start(scratch: &Path) -> Server {
    fs::create_dir_all(scratch.join("disks")).expect("a folder");
    let (images, disks) = (images().canonicalize().expect("images"), scratch.join("disks"));
    let args = ["--images".as_ref(), images.as_os_str(), "--targets".as_ref(), disks.as_os_str()];
    let mut server = Server::launch(scratch, vm_server::command(scratch, 3).args(args));
    server.await_ready();
    server
}

/// The base image of a language, by the beginning of its name.
fn base(name: &str) -> PathBuf {
    let images = images().canonicalize().expect("images");
    let entries = images.read_dir().expect("a folder").flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name))
    };
    entries.into_iter().find(is_it).expect("a base image")
}

/// A disk with this id, at a target of the same name.
#[track_caller]
fn acquire(server: &Server, scratch: &Path, id: &str, base: &Path) -> PathBuf {
    let target = scratch.join("disks").join(id);
    let request = json!({ "base": base, "target": &target, "id": id });
    let answer = server.post("/v1/acquire", &request);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
    target
}

fn on(disk: &str, code: &str) -> Value {
    json!({ "language": "python", "code": code, "disk": disk })
}

fn delete(server: &Server, path: &str) -> Response {
    server.client().ask("DELETE", path, None).expect("an answer")
}

#[apply(test)]
async fn a_disk_stays_its_user_s(scratch: Scratch) {
    let server = start(&scratch);
    let target = acquire(&server, &scratch, "work", &base("python"));
    let asked = json!({ "language": "python", "disk": "work" });
    let made = server.post("/v1/vms", &asked);
    assert_eq!(made.status, 201, "{made:?}");
    let vm = made.json();
    assert_eq!((&vm["start"], &vm["disk"]), (&json!("booted"), &json!("work")), "{vm}");
    let path = format!("/v1/vms/{}", vm["id"].as_str().expect("an id"));
    assert_eq!(server.get(&path).json(), vm);
    let run = |code| server.post(&format!("{path}/execute"), &json!({ "code": code }));
    assert_eq!(Ran::of(&run(LEAVES)).printed(), "");

    // Meanwhile it is neither removed nor another VM's.
    assert_eq!(delete(&server, "/v1/disks/work").problem(409), "disk-busy");
    assert_eq!(server.post("/v1/vms", &asked).problem(409), "disk-busy");
    assert_eq!(server.post("/v1/execute", &on("work", FINDS)).problem(409), "disk-busy");
    assert_eq!(server.get("/v1/disks/work").json()["target"], json!(target));
    assert_eq!(Ran::of(&run(FINDS)).printed(), "left\n");
    assert_eq!(delete(&server, &path).status, 204);
    assert!(target.is_file());

    let ran = Ran::of(&server.post("/v1/execute", &on("work", FINDS)));
    assert_eq!(ran.printed(), "left\n");
    let begun = &ran.events[0];
    assert_eq!((&begun["start"], begun.get("disk")), (&json!("booted"), None), "{begun}");
    // By the answer's end it is free.
    assert_eq!(delete(&server, "/v1/disks/work").status, 204);
    assert!(!target.exists());
    assert_eq!(server.post("/v1/vms", &asked).problem(404), "unknown-disk");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// However a program ends, what it wrote is in the disk: its client goes away, or the server ends.
#[apply(test)]
async fn what_was_written_is_there_afterwards(scratch: Scratch) {
    let server = start(&scratch);
    let target = acquire(&server, &scratch, "work", &base("python"));
    let code = format!("{LEAVES}\nprint('begun', flush=True)\nimport time\ntime.sleep(1000)");
    let (client, _) = begin(&server, "/v1/execute", &on("work", &code));
    drop(client);
    eventually("its VM is gone", || server.children().is_empty()).await;
    let vm = server.post("/v1/vms", &json!({ "language": "python", "disk": "work" })).json();
    let path = format!("/v1/vms/{}/execute", vm["id"].as_str().expect("an id"));
    let ran = server.post(&path, &json!({ "code": format!("{LEAVES}\n{FINDS}") }));
    assert_eq!(Ran::of(&ran).printed(), "left\nleft\n");
    server.stop();
    assert!(target.is_file());

    // One that is killed leaves what the guest had been told to write.
    let server = start(&scratch);
    let (client, _) = begin(&server, "/v1/execute", &on("work", LEAVES_AND_SLEEPS));
    server.signal(Signal::KILL);
    drop(client);
    assert!(!server.wait().success());
    let server = start(&scratch);
    let found = loop {
        // The killed server's QEMU dies a moment later.
        let answer = server.post("/v1/execute", &on("work", FINDS));
        if answer.status != 409 {
            break Ran::of(&answer).printed();
        }
    };
    assert_eq!(found, "left\n".repeat(3));
    server.stop();
    assert!(target.is_file());
}

#[apply(test)]
#[needs(QemuImg)]
async fn what_is_no_such_disk_is_named(scratch: Scratch) {
    let server = start(&scratch);
    let ask = |disk: &str| server.post("/v1/execute", &on(disk, "print()"));
    assert_eq!(ask("none").problem(404), "unknown-disk");
    assert_eq!(ask("no label").status, 422);
    acquire(&server, &scratch, "other", &base("node"));
    let other = ask("other");
    assert_eq!(other.problem(422), "bad-disk");
    assert!(
        other.body.contains("it is an overlay of") && other.body.contains("node-"),
        "{other:?}"
    );

    let target = acquire(&server, &scratch, "work", &base("python"));
    fs::set_permissions(&target, Permissions::from_mode(0o620)).expect("a mode");
    assert_eq!(ask("work").problem(403), "forbidden");
    fs::set_permissions(&target, Permissions::from_mode(0o600)).expect("a mode");
    // Its user's own QEMU has it.
    let mut qemu = hold(&target, "");
    assert_eq!(ask("work").problem(409), "disk-busy");
    qemu.kill().expect("killed");
    qemu.wait().expect("it ends");
    // What took its place isn't it.
    let moved = scratch.join("moved");
    fs::rename(&target, &moved).expect("moved");
    std::os::unix::fs::symlink(&moved, &target).expect("a link");
    assert_eq!(ask("work").problem(404), "unknown-disk");
    qemu::check(&moved);
    assert!(server.children().is_empty());
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Another user doesn't hear of it.
#[apply(test)]
#[needs(Root)]
async fn another_user_s_disk_is_none(scratch: Scratch) {
    let server = start(&scratch);
    fs::set_permissions(server.socket(), Permissions::from_mode(0o666)).expect("a socket");
    acquire(&server, &scratch, "work", &base("python"));
    let theirs = |path: &'static str, request: Value| {
        as_somebody(&scratch, &[], move |client| client.post(path, &request)).expect("an answer")
    };
    let asked = json!({ "language": "python", "disk": "work" });
    assert_eq!(theirs("/v1/vms", asked).problem(404), "unknown-disk");
    assert_eq!(theirs("/v1/execute", on("work", "print()")).problem(404), "unknown-disk");
    server.stop();
    assert_no_vm_left(&scratch).await;
}
