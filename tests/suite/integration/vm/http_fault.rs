//! Faults under a server with VMs: each caller is answered, and nothing is left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::vm::VmSettings;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::cli::overlay_pool_after;
use crate::harness::faults::fuse;
use crate::harness::http::request;
use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::vm_server::{self, begin, execute, figure, next, until_ready};
use crate::harness::vms::{assert_no_vm_left, images};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

const SLEEPS: &str = "print('begun', flush=True)\nimport time\ntime.sleep(1000)";

fn python(code: &str) -> Value {
    json!({ "language": "python", "code": code })
}

/// Sends a signal to every QEMU of a server's.
#[track_caller]
fn signal_vms(server: &Server, signal: Signal) {
    let qemus = server.children();
    assert!(!qemus.is_empty());
    for pid in qemus.into_keys() {
        kill_process(Pid::from_raw(pid).expect("a PID"), signal).expect("it is sent");
    }
}

/// The last event of an answer that has begun.
fn last(client: &mut crate::harness::http::Client) -> Value {
    let mut last = Value::Null;
    while let Some(event) = next(client) {
        last = event;
    }
    last
}

/// Who asks has another one, in its time.
#[apply(test)]
#[case::killed(Signal::KILL)]
#[case::stopped(Signal::STOP)]
async fn a_member_that_is_of_no_use_is_passed_over(scratch: Scratch, #[case] signal: Signal) {
    let server = vm_server::start(&scratch, 3, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    signal_vms(&server, signal);
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_vm_that_is_killed_while_it_runs(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let (mut client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    signal_vms(&server, Signal::KILL);
    let last = last(&mut client);
    assert_eq!(
        (&last["event"], &last["problem"]["error"]),
        (&json!("failed"), &json!("vm-failed"))
    );
    let detail = last["problem"]["detail"].as_str().expect("a detail");
    assert!(detail.contains("SIGKILL"), "{detail}");
    let failed = r#"overlay_pool_programs_total{language="python",end="failed"}"#;
    assert_eq!(figure(&server, failed), Some(1));
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Its program's time is over, and it doesn't obey: so does its VM's.
#[apply(test)]
async fn a_vm_that_hangs_while_it_runs(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let mut request = python(SLEEPS);
    request["limits"] = json!({ "seconds": 15 });
    let (mut client, _) = begin(&server, "/v1/execute", &request);
    signal_vms(&server, Signal::STOP);
    let last = last(&mut client);
    assert_eq!(
        (&last["event"], &last["problem"]["error"]),
        (&json!("failed"), &json!("vm-failed"))
    );
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Code that is root can speak on the port itself.
#[apply(test)]
#[case::a_long_frame("os.write(port, b'\\x05\\xff\\xff\\xff')")]
#[case::a_flood("while True: os.write(port, b'\\x05\\x00\\x40\\x00' + b'x' * 16384)")]
async fn a_guest_that_lies(scratch: Scratch, #[case] lie: &str) {
    let server = vm_server::start(&scratch, 2, &[]);
    let code = format!(
        "import ctypes, os
fds = os.listdir('/proc/1/fd')
port = next(fd for fd in fds if 'vport' in os.readlink('/proc/1/fd/' + fd))
port = ctypes.CDLL(None).syscall(438, os.pidfd_open(1), int(port), 0)
assert port >= 0
os.set_blocking(port, True)
{lie}
import time
time.sleep(1000)"
    );
    let ran = execute(&server, &python(&code));
    let last = ran.last();
    assert_eq!(
        (&last["event"], &last["problem"]["error"]),
        (&json!("failed"), &json!("vm-failed"))
    );
    let detail = last["problem"]["detail"].as_str().expect("a detail");
    assert!(detail.contains("isn't to be trusted"), "{detail}");
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// It is removed, the VM boots, and the next one saves another.
#[apply(test)]
async fn a_state_that_is_cut_off(scratch: Scratch) {
    let states = scratch.join("states");
    let start = || {
        let mut command = vm_server::command(&scratch, 2);
        let mut server = Server::launch(&scratch, command.env("OVERLAY_POOL_STATES", &states));
        server.await_ready();
        server
    };
    let begun = |server: &Server| {
        let ran = execute(server, &python("print('well')"));
        assert_eq!(ran.printed(), "well\n");
        ran.events[0]["start"].clone()
    };
    let server = start();
    assert_eq!(begun(&server), "resumed");
    server.stop();
    let entries = states.read_dir().expect("a folder").flatten();
    let state = entries.map(|entry| entry.path()).find(|path| path.is_dir()).expect("a state");
    let (ram, private) = (state.join("ram"), std::os::unix::fs::PermissionsExt::from_mode(0o600));
    std::fs::set_permissions(&ram, private).expect("a mode");
    let file = std::fs::File::options().write(true).open(&ram).expect("the state");
    file.set_len(file.metadata().expect("its length").len() / 2).expect("truncated");
    let server = start();
    assert_eq!(begun(&server), "booted");
    assert_eq!(begun(&server), "resumed");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Its VMs die with it, and the next one removes what it left.
#[apply(test)]
async fn a_server_that_is_killed(scratch: Scratch) {
    let server = vm_server::start(&scratch, 3, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    let kept = server.post("/v1/vms", &json!({ "language": "python" }));
    assert_eq!(kept.status, 201, "{kept:?}");
    let (mut client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    let qemus = server.children();
    assert!(qemus.len() >= 2, "{qemus:?}");
    server.signal(Signal::KILL);
    // Its client learns it at once.
    assert!(client.chunk().is_err());
    drop(server);
    let is_there = |pid: &i32| std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
    eventually("its QEMUs are gone", || !qemus.keys().any(is_there)).await;
    let left = || scratch.join("pool").read_dir().expect("a folder").count();
    assert!(left() > 0, "a killed server can't tidy up");
    let next = vm_server::start(&scratch, 2, &[]);
    assert_eq!(execute(&next, &python("print('well')")).printed(), "well\n");
    assert_eq!(next.get("/v1/vms").json(), json!([]));
    next.stop();
    assert_no_vm_left(&scratch).await;
}

/// A server whose VMs lie on a small tmpfs of their own, and where that is seen from here.
fn start_on_tmpfs(scratch: &Path) -> (Server, PathBuf) {
    let setup = "mkdir -p pool && mount -t tmpfs -o size=16m,mode=700 none pool";
    let mut command = overlay_pool_after(setup, scratch);
    command.arg("serve");
    let mut server = Server::launch(scratch, &mut vm_server::with_vms(command, 2));
    server.await_ready();
    let pool = scratch.join("pool");
    let seen = format!("/proc/{}/root{}", server.pid().as_raw_nonzero(), pool.display());
    (server, seen.into())
}

/// Whose program writes more than the host has room for learns it; the next one has room.
#[apply(test)]
#[needs(MountNamespace)]
async fn a_disk_of_the_host_s_that_a_guest_fills(scratch: Scratch) {
    let (server, place) = start_on_tmpfs(&scratch);
    let fills = "import os
with open('/root/file', 'wb') as file:
  for _ in range(64):
    file.write(os.urandom(1 << 20))
  file.flush()
  os.fsync(file.fileno())
print('written')";
    let ran = execute(&server, &python(fills));
    let last = ran.last();
    assert_eq!(
        (&last["event"], &last["problem"]["error"], &last["problem"]["status"]),
        (&json!("failed"), &json!("vm-failed"), &json!(507))
    );
    let detail = last["problem"]["detail"].as_str().expect("a detail");
    assert!(detail.contains("no space is left in"), "{detail}");
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    assert_eq!(owned(&place, "vm-"), Vec::<PathBuf>::new());
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Who asks while nothing can be written is refused in time, and leaves nothing.
#[apply(test)]
#[needs(MountNamespace)]
async fn a_disk_of_the_host_s_that_is_full(scratch: Scratch) {
    let (server, place) = start_on_tmpfs(&scratch);
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    let filler = place.join("filler");
    let full = std::fs::write(&filler, vec![1; 32 << 20]).expect_err("no room for that");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // Of an overlay that was ready the guest can write nothing; after that none can be made.
    for request in ["/v1/execute", "/v1/vms", "/v1/execute"] {
        let body = json!({ "language": "python", "code": "print('well')" });
        let body = if request == "/v1/vms" { json!({ "language": "python" }) } else { body };
        let answer = server.post(request, &body);
        assert_eq!(answer.problem(507), "vm-failed", "{answer:?}");
        assert!(answer.body.to_lowercase().contains("no space"), "{answer:?}");
    }
    std::fs::remove_file(&filler).expect("room again");
    // Its state was none the worse for it.
    let ran = execute(&server, &python("print('well')"));
    assert_eq!((ran.printed().as_str(), &ran.events[0]["start"]), ("well\n", &json!("resumed")));
    assert_eq!(owned(&place, "vm-"), Vec::<PathBuf>::new());
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// What is in a place under names that begin so.
fn owned(place: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = place.read_dir().expect("a folder").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

/// Guest images on a disk that doesn't answer, as a dead NFS server's, delay who asks for a VM and
/// nobody else.
#[apply(test)]
#[needs(Fuse, MountNamespace)]
async fn guest_images_that_hang(scratch: Scratch) {
    let slow = scratch.join("slow");
    std::fs::create_dir(&slow).expect("a folder");
    for entry in images().read_dir().expect("the images").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("node") {
            std::fs::copy(entry.path(), slow.join(entry.file_name())).expect("a copy");
        }
    }
    let setup = format!("{}true", fuse::mount("slow"));
    let mut command = overlay_pool_after(&setup, &scratch);
    command.args(["serve", "--vms", "2", "--guest-images", "slow"]);
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    command.args(["--accel", accelerator.as_str()]).env("TOKIO_WORKER_THREADS", "2");
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    fuse::hang(&scratch, "slow", Duration::from_secs(3600)).expect("it hangs");
    let clients = [0; 4].map(|_| {
        let mut client = server.client();
        let request = request("POST", "/v1/execute", Some(&python("print()").to_string()));
        client.send(request.as_bytes()).expect("it is sent");
        client
    });
    for _ in 0..20 {
        for path in ["/livez", "/v1/stats", "/v1/vms", "/metrics"] {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.signal(Signal::TERM);
    drop(clients);
    assert!(server.wait().success());
}

/// A VM that nobody waits for any more isn't made.
#[apply(test)]
async fn a_client_that_goes_away_while_its_vm_boots(scratch: Scratch) {
    let mut command = vm_server::command(&scratch, 2);
    let mut server = Server::launch(&scratch, command.env("OVERLAY_POOL_RESUME", "off"));
    server.await_ready();
    let mut client = server.client();
    let body = python("print('well')").to_string();
    let head = format!(
        "POST /v1/execute HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.send(head.as_bytes()).expect("it is sent");
    eventually("its VM boots", || !server.children().is_empty()).await;
    drop(client);
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    assert_eq!(figure(&server, "overlay_pool_vms_used"), Some(0));
    server.stop();
    assert_no_vm_left(&scratch).await;
}
