//! Starting, ending and starting again.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::{hanging_tools, is_closed, names, start, under_way};
use crate::harness::http::Client;
use crate::harness::pool_process::is_whole;
use crate::harness::prelude::*;
use crate::harness::requirements::SECOND_FILESYSTEM;
use crate::harness::server::{self, Server};

fn assert_nothing_left(scratch: &Path) {
    assert!(!scratch.join("pool").exists(), "{:?}", names(&scratch.join("pool")));
    assert!(!server::socket(scratch).exists(), "the socket is left");
}

fn assert_sound(scratch: &Path, overlay: &Path) {
    let bytes = std::fs::read(overlay).expect("an overlay");
    assert!(is_whole(&bytes, &server::base(scratch), None), "{}", overlay.display());
}

#[apply(test)]
fn the_end_leaves_what_was_acquired_and_nothing_else(
    scratch: Scratch,
    #[values(Signal::TERM, Signal::INT)] signal: Signal,
) {
    let server = Server::of_one_base(&scratch);
    let target = server::vms(&scratch).join("vm.qcow2");
    let acquired = server.acquire(&server::base(&scratch), &target);
    assert_eq!((acquired.status, acquired.json()["source"].as_str()), (200, Some("pooled")));
    server.signal(signal);
    assert!(server.wait().success());
    assert_sound(&scratch, &target);
    assert_nothing_left(&scratch);
}

#[apply(test)]
fn requests_under_way_are_finished(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let target = server::vms(&scratch).join("vm.qcow2");
    let mut client = server.client();
    let rest = under_way(&mut client, &server::base(&scratch), &target);
    server.signal(Signal::TERM);
    server.await_that("no more clients", |server| is_closed(server.socket()));
    client.send(rest.as_bytes()).expect("the rest");
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
    assert!(server.wait().success());
    assert_sound(&scratch, &target);
    assert_nothing_left(&scratch);
}

#[apply(test)]
fn an_ending_server_is_not_ready(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let mut client = server.client();
    client.send(b"GET /readyz HTTP/1.1\r\n").expect("half a head");
    let mut other = server.client(); // which keeps the server from ending
    for _ in 0..20 {
        // Connections are taken in turn, and so the first is by now.
        assert_eq!(other.get("/readyz").expect("an answer").status, 200);
    }
    let (base, target) = (server::base(&scratch), server::vms(&scratch).join("vm.qcow2"));
    let rest = under_way(&mut other, &base, &target);
    server.signal(Signal::TERM);
    server.await_that("no more clients", |server| is_closed(server.socket()));
    client.send(b"host: pool\r\n\r\n").expect("the other half");
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.problem(503), "not-ready");
    assert!(answer.json()["detail"].as_str().is_some_and(|why| why.contains("ending")));
    other.send(rest.as_bytes()).expect("the rest");
    assert_eq!(other.answer().expect("an answer").status, 200);
    assert!(server.wait().success());
}

#[apply(test)]
fn a_request_that_never_ends_is_given_up(scratch: Scratch) {
    let server = start(&scratch, &["--drain-timeout", "200ms"]);
    let mut client = server.client();
    let target = server::vms(&scratch).join("vm.qcow2");
    under_way(&mut client, &server::base(&scratch), &target);
    server.stop();
    assert!(client.is_closed() && !target.exists());
    assert_nothing_left(&scratch);
}

#[apply(test)]
fn told_again_it_ends_at_once(scratch: Scratch) {
    let mut server = start(&scratch, &["--drain-timeout", "1h", "--request-timeout", "1h"]);
    let mut client = server.client();
    let target = server::vms(&scratch).join("vm.qcow2");
    under_way(&mut client, &server::base(&scratch), &target);
    server.signal(Signal::TERM);
    server.await_that("no more clients", |server| is_closed(server.socket()));
    server.stop();
    assert!(client.is_closed() && !target.exists());
    assert_nothing_left(&scratch);
}

/// A server whose creator doesn't come to an end.
fn hanging(scratch: &Path) -> Server {
    server::one_base(scratch);
    let mut command = Server::command(scratch);
    command.args(server::one_base_args(scratch)).args(["--creator", "qemu-img"]);
    command.args(["--create-timeout", "1h"]).env("PATH", hanging_tools(scratch));
    let mut server = Server::launch(scratch, &mut command);
    server.await_that("it listens", |server| !is_closed(server.socket()));
    // Then it also takes signals.
    assert_eq!(server.get("/livez").status, 200);
    server
}

#[apply(test)]
fn while_it_starts_it_says_so(scratch: Scratch) {
    let server = hanging(&scratch);
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.get("/readyz").problem(503), "not-ready");
    let target = server::vms(&scratch).join("vm.qcow2");
    let answer = server.acquire(&server::base(&scratch), &target);
    assert_eq!(answer.problem(503), "not-started");
    assert_eq!(answer.json()["detail"], "the server isn't ready yet; try again once /readyz is");
    assert!(!target.exists());
}

/// Whoever came while it started, and had no answer, is left to the next server on the socket.
#[apply(test)]
fn ended_before_it_has_started_it_takes_nobody(scratch: Scratch) {
    server::one_base(&scratch);
    let listener = UnixListener::bind(server::socket(&scratch)).expect("a socket");
    let held = listener.try_clone().expect("the same socket");
    // Another file that the shell opens has the lowest number.
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-ec", script, "sh", env!("CARGO_BIN_EXE_overlay-pool"), "serve"]);
    command.args(server::one_base_args(&scratch)).args(["--creator", "qemu-img"]);
    command.args(["--create-timeout", "1h"]).env("PATH", hanging_tools(&scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool")).stdin(OwnedFd::from(listener));
    let mut client = Client::connect(&server::socket(&scratch)).expect("somebody listens");
    client.send(b"GET /livez HTTP/1.1\r\n\r\n").expect("it is sent");
    let mut server = Server::launch(&scratch, &mut command);
    let is_create = |args: &String| args.contains(" create ");
    server.await_that("it stocks", |server| server.children().values().any(is_create));
    server.signal(Signal::TERM);
    server.stop();
    held.set_nonblocking(true).expect("it is set");
    held.accept().expect("the client is still there");
}

/// Whatever is wrong with a path, but for what is in the way; and nothing counts as failed.
#[apply(test)]
fn l1_while_it_starts_it_says_nothing_else(scratch: Scratch) {
    let mut server = hanging(&scratch);
    let is_create = |args: &String| args.contains(" create ");
    server.await_that("it stocks", |server| server.children().values().any(is_create));
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    std::fs::write(vms.join("there"), "precious").expect("a file");
    assert_eq!(server.acquire(&base, &vms.join("missing/vm")).problem(503), "not-started");
    std::fs::remove_file(&base).expect("it is removed");
    assert_eq!(server.acquire(&base, &vms.join("vm")).problem(503), "not-started");
    assert_eq!(server.acquire(&base, &vms.join("there")).problem(409), "already-exists");
    assert_eq!(server.get("/v1/stats").json()["failed"], 0);
}

/// A rescan that is asked for too soon comes when the pool is started.
#[apply(test)]
fn told_to_rescan_while_it_starts_it_does_so_then(scratch: Scratch) {
    let mut server = hanging(&scratch);
    server.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(100)); // it has been told before it goes on
    std::fs::write(scratch.join("go"), "").expect("a file");
    server.await_that("it has looked again", |server| server.log().contains("rescan"));
    server.stop();
}

#[apply(test)]
fn l7_told_to_end_while_it_starts_it_leaves_nothing(scratch: Scratch) {
    let mut server = hanging(&scratch);
    server.await_that("it stocks", |_| scratch.join("pool").exists());
    server.stop();
    assert_nothing_left(&scratch);
}

/// A service that can't start must not be taken for one that ended well.
#[apply(test)]
fn a_start_that_fails_is_a_failure(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = Server::command(&scratch);
    command.args(server::one_base_args(&scratch)).args(["--creator", "qemu-img"]);
    command.env("PATH", &*scratch);
    let server = Server::launch(&scratch, &mut command);
    assert_eq!(server.wait().code(), Some(5));
    assert_nothing_left(&scratch);
}

#[apply(test)]
fn c1_a_restart_loses_no_acquired_overlay(
    scratch: Scratch,
    #[values(Signal::KILL, Signal::TERM)] signal: Signal,
    #[values(true, false)] targets_in_pool_dir: bool,
) {
    server::one_base(&scratch);
    let mut args = server::one_base_args(&scratch);
    let folder = if targets_in_pool_dir { scratch.join("pool") } else { server::vms(&scratch) };
    if targets_in_pool_dir {
        args.truncate(args.len() - 2); // as is the default
    }
    let mut targets = Vec::new();
    for round in 0..3 {
        let mut server = Server::start(&scratch, &args);
        assert_eq!(server.ready(), 2);
        for number in 0..4 {
            let target = folder.join(format!("vm-{round}-{number}.qcow2"));
            let answer = server.acquire(&server::base(&scratch), &target);
            assert_eq!(answer.status, 200, "{answer:?}");
            targets.push(target);
        }
        server.await_ready_overlays(2);
        server.signal(signal);
        server.wait();
        assert_eq!(server::socket(&scratch).exists(), signal == Signal::KILL);
    }
    let server = Server::start(&scratch, &args);
    let pools = names(&scratch.join("pool"));
    let pools = pools.iter().filter(|name| name.starts_with("pool-")).count();
    assert_eq!(pools, 1, "what the dead ones left is gone");
    server.stop();
    for target in &targets {
        assert_sound(&scratch, target);
    }
}

/// Restocking would go on for long: it is not waited for.
#[apply(test)]
fn the_end_stops_restocking(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = Server::command(&scratch);
    command.arg("--base").arg(server::base(&scratch));
    command.args(["--max-vms", "20000", "--max-creations", "1"]);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_that("it stocks", |_| !names(&scratch.join("pool")).is_empty());
    server.stop();
    assert_eq!(names(&scratch.join("pool")), [] as [&str; 0]);
}

#[apply(test)]
#[needs(SecondFilesystem)]
fn a5_targets_on_another_filesystem_are_told_once(scratch: Scratch) {
    server::one_base(&scratch);
    let targets = tempfile::tempdir_in(SECOND_FILESYSTEM).expect("a folder on tmpfs");
    let mut args = server::one_base_args(&scratch);
    args.extend(["--targets".to_owned(), targets.path().display().to_string()]);
    let mut server = Server::start(&scratch, &args);
    for name in ["vm-1.qcow2", "vm-2.qcow2", "vm-3.qcow2"] {
        server.await_ready_overlays(2);
        let answer = server.acquire(&server::base(&scratch), &targets.path().join(name));
        assert_eq!((answer.status, &answer.json()["source"]), (200, &"on-demand".into()));
    }
    // Once when it starts, once when the first overlay isn't moved.
    assert_eq!(server.log().matches("on another filesystem").count(), 2, "{}", server.log());
    server.stop();
}
