//! Rules A2 and R3 on a disk that takes its time: strace has each write to a file wait.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;

use crate::harness::cli;
use crate::harness::faults::fuse;
use crate::harness::faults::strace::{Attached, is_wholly_traced};
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// To trace a process that is not a child takes root.
/// More creations than the server has threads.
const BURST: usize = 8;
/// Longer than a test takes.
const HANG: Duration = Duration::from_secs(60);

#[apply(test)]
#[needs(Strace, Root)]
fn a2_r3_ready_overlays_are_handed_over_while_others_are_made(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = Server::command(&scratch);
    command.args(["--max-vms", "40", "--restock-interval", "1s"]).arg("--base");
    command.arg(server::base(&scratch)).arg("--targets").arg(server::vms(&scratch));
    command.env("TOKIO_WORKER_THREADS", "2");
    let mut server = Server::launch(&scratch, &mut command);
    server.await_that("it listens", |server| Client::connect(server.socket()).is_ok());
    server.await_ready_overlays(20);
    let log = scratch.join("strace.log");
    let slow = Attached::to(server.pid(), &log, "pwrite64", "delay_enter=5s");
    server.await_that("it is traced", |server| is_wholly_traced(server.pid()));

    let acquire = |server: &Server, number: usize| {
        let target = server::vms(&scratch).join(format!("vm-{number}"));
        let answer = server.acquire(&server::base(&scratch), &target);
        assert_eq!((answer.status, answer.json()["source"].as_str()), (200, Some("pooled")));
    };
    for number in 0..BURST {
        acquire(&server, number);
    }
    server.await_that("others are made", |server| {
        let bases: Value = server.get("/v1/bases").json();
        bases[0]["pending"].as_u64() > Some(0)
    });
    acquire(&server, BURST);
    let done = std::fs::read_to_string(&log).expect("strace's log");
    assert!(!done.contains(" = "), "a write was waited for: {done}");
    assert_eq!(server.ready(), 20 - BURST as u64 - 1, "none was made meanwhile");
    drop(slow);
    server.await_ready_overlays(20);
    server.stop();
}

/// More requests than the server has threads look at a base image that nobody answers for.
#[apply(test)]
#[needs(Fuse, MountNamespace)]
fn a_list_that_hangs_delays_itself_alone(scratch: Scratch) {
    server::one_base(&scratch);
    std::fs::create_dir(scratch.join("images")).expect("a folder");
    Image::new(1 << 20).write(&scratch.join("images/dead-base-1.qcow2"));
    let mut command = cli::overlay_pool_after(fuse::mount("images").trim_end(), &scratch);
    command.arg("serve").args(server::one_base_args(&scratch)).args(["--images", "images"]);
    command.env("TOKIO_WORKER_THREADS", "2");
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    server.await_ready_overlays(4);

    fuse::hang(&scratch, "images", HANG).expect("it hangs");
    // The kernel answers for it a while.
    std::thread::sleep(Duration::from_millis(1500));
    let ask = |path: &str| {
        let mut client = server.client();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: pool\r\n\r\n").as_bytes()).expect("sent");
        client
    };
    let mut lists: Vec<_> = ["/metrics", "/v1/bases"].repeat(2).into_iter().map(ask).collect();
    for number in 0..2 {
        let target = server::vms(&scratch).join(format!("vm-{number}"));
        let answer = server.acquire(&server::base(&scratch), &target);
        assert_eq!((answer.status, answer.json()["source"].as_str()), (200, Some("pooled")));
        assert_eq!(server.get("/livez").status, 200);
    }
    for list in &mut lists {
        list.stream().set_nonblocking(true).expect("it doesn't wait");
        let answer = list.answer().expect_err("none yet, or nothing hung");
        assert_eq!(answer.kind(), ErrorKind::WouldBlock);
    }
}
