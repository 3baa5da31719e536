//! A disk that doesn't answer, as a dead NFS server's, delays who asks for it and nobody else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::faults::fuse;
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::Fuse, Need::MountNamespace];

/// More than the server has threads that answer.
const CLIENTS: usize = 6;
const FOR_GOOD: Duration = Duration::from_secs(3600);

/// A server whose targets may also lie on a filesystem that can hang, `slow`.
fn served(scratch: &Path, more: &[&str]) -> Server {
    server::one_base(scratch);
    std::fs::create_dir(scratch.join("slow")).expect("a folder");
    let script = format!("{}exec \"$@\"", fuse::mount("slow"));
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(scratch)).arg("--targets").arg(scratch.join("slow"));
    command.args(more).env("TOKIO_WORKER_THREADS", "2");
    command.env("OVERLAY_POOL_DIR", scratch.join("pool")).current_dir(scratch);
    let mut server = Server::launch(scratch, &mut command);
    server.await_ready();
    server
}

fn send(client: &mut Client, line: &str, body: &Value) {
    let body = body.to_string();
    let head = format!("{line} HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json");
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    client.send(request.as_bytes()).expect("it is sent");
}

/// Requests that hang, each on a connection of its own.
fn hang(server: &Server, scratch: &Path) -> Vec<Client> {
    fuse::hang(scratch, "slow", FOR_GOOD).expect("it hangs");
    let base = server::base(scratch);
    let clients = (0..CLIENTS).map(|number| {
        let mut client = server.client();
        let target = scratch.join("slow").join(number.to_string());
        send(&mut client, "POST /v1/acquire", &json!({ "base": base, "target": target }));
        client
    });
    let mut clients: Vec<_> = clients.collect();
    let mut client = server.client();
    let path = scratch.join("slow/base.qcow2").to_string_lossy().replace('/', "%2F");
    send(&mut client, &format!("DELETE /v1/bases/{path}"), &Value::Null);
    clients.push(client);
    clients
}

/// The filesystem that hung answers again.
fn go_on(scratch: &Path) {
    let pid = std::fs::read_to_string(scratch.join("slow.pid")).expect("its PID");
    let pid = Pid::from_raw(pid.trim().parse().expect("a PID")).expect("a PID");
    kill_process(pid, Signal::CONT).expect("it goes on");
}

fn expect_answers(server: &Server, scratch: &Path, name: &str) {
    for path in ["/livez", "/readyz", "/v1/stats", "/v1/bases", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let (base, target) = (server::base(scratch), server::vms(scratch).join(name));
    assert_eq!(server.acquire(&base, &target).status, 200);
    assert_eq!(server.post("/v1/open", &json!({ "base": base })).status, 200);
}

/// Others are answered all the time, and the end comes.
#[apply(test)]
fn it_delays_nobody_else_and_not_the_end(scratch: Scratch) {
    let server = served(&scratch, &["--drain-timeout", "1s"]);
    let waiting = hang(&server, &scratch);
    for round in 0..3 {
        expect_answers(&server, &scratch, &round.to_string());
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    drop(waiting);
}

/// What was answered with a time-out is undone when the disk goes on.
#[apply(test)]
fn what_timed_out_is_taken_back(scratch: Scratch) {
    let mut server = served(&scratch, &["--request-timeout", "1s"]);
    let mut waiting = hang(&server, &scratch);
    for client in &mut waiting {
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.problem(504), "timed-out");
    }
    go_on(&scratch);
    server.await_that("all is taken back", |server| {
        server.log().matches("taken back").count() == CLIENTS
    });
    let left = std::fs::read_dir(scratch.join("slow")).expect("a folder").count();
    assert_eq!(left, 0);
    expect_answers(&server, &scratch, "after");
}

/// So is a disk with an id; meanwhile nobody who waits for it keeps a thread, and then it can be had.
#[apply(test)]
fn a_disk_with_an_id_that_timed_out_is_taken_back(scratch: Scratch) {
    let mut server = served(&scratch, &["--request-timeout", "1s"]);
    fuse::hang(&scratch, "slow", FOR_GOOD).expect("it hangs");
    let target = scratch.join("slow/vm");
    let wanted = json!({ "base": server::base(&scratch), "target": target, "id": "vm" });
    // The first of them hangs, and the others wait for it.
    let mut waiting: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.client();
            send(&mut client, "POST /v1/acquire", &wanted);
            client
        })
        .collect();
    for client in &mut waiting {
        assert_eq!(client.answer().expect("an answer").problem(504), "timed-out");
    }
    expect_answers(&server, &scratch, "meanwhile");
    go_on(&scratch);
    server.await_that("it can be had", |server| server.post("/v1/acquire", &wanted).status == 200);
    assert!(server.log().matches("taken back").count() <= 1, "{}", server.log());
    assert_eq!(server.get("/v1/disks").json()[0]["id"], "vm");
    let left = std::fs::read_dir(scratch.join("slow")).expect("a folder").count();
    assert_eq!(left, 1, "the disk itself");
    let removed = server.client().ask("DELETE", "/v1/disks/vm", None).expect("an answer");
    assert_eq!((removed.status, server.get("/v1/disks").json()), (204, json!([])));
    let left = std::fs::read_dir(scratch.join("slow")).expect("a folder").count();
    assert_eq!(left, 0);
}
