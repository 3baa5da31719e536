//! Clients that are killed while they are served.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::harness::cli;
use crate::harness::faults::descriptors;
use crate::harness::pool_process::{directories, is_whole};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const ROUNDS: usize = 20;
const CLIENTS: usize = 4;

fn open_files(pid: Pid) -> usize {
    descriptors::open(pid).map_or(0, |open| open.len())
}

/// Waits until nothing is under way and the shelf is full.
#[track_caller]
fn await_rest(server: &mut Server, open_before: usize) {
    // Clients are accepted in their order, so that all before this one have been.
    assert_eq!(server.get("/livez").status, 200);
    server.await_that("connections are closed", |server| open_files(server.pid()) <= open_before);
    server.await_ready_overlays(2);
}

/// What lies at the targets is whole, the server has counted it, and nothing else is there.
#[track_caller]
fn check_targets(server: &mut Server, scratch: &Path, expected: &BTreeSet<String>) -> u64 {
    let base = server::base(scratch);
    let files = || std::fs::read_dir(server::vms(scratch)).expect("a folder").flatten();
    let counted = |stats: &Value| {
        let counter = |name: &str| stats[name].as_u64().expect("a counter");
        counter("pooled") + counter("on_demand")
    };
    // What waited to be accepted is still served, and counted a moment after it is there.
    server.await_that("each target was counted", |server| {
        counted(&server.get("/v1/stats").json()) == files().count() as u64
    });
    for entry in files() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(expected.contains(&name), "{name} is left over");
        let bytes = std::fs::read(entry.path()).expect("a file");
        assert!(is_whole(&bytes, &base, None), "{name} isn't whole");
    }
    let stats = server.get("/v1/stats").json();
    assert_eq!((&stats["failed"], &stats["discarded"]), (&json!(0), &json!(0)), "{stats}");
    counted(&stats)
}

/// Programs that are killed at random moments, by SIGKILL.
#[apply(test)]
fn a12_killed_programs_leave_nothing(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut names = BTreeSet::new();
    let before = open_files(server.pid());
    for round in 0..ROUNDS {
        let clients = (0..CLIENTS).map(|number| {
            let name = format!("vm-{round}-{number}");
            let mut command = cli::overlay_pool(&scratch);
            command.arg("acquire").arg("--socket").arg(server.socket());
            command.args([server::base(&scratch), server::vms(&scratch).join(&name)]);
            names.insert(name);
            command.stdout(std::process::Stdio::null()).spawn().expect("a client")
        });
        let mut clients: Vec<_> = clients.collect();
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        for client in &mut clients {
            client.kill().expect("it is killed or has ended");
            client.wait().expect("its end");
        }
    }
    await_rest(&mut server, before);
    let handed_over = check_targets(&mut server, &scratch, &names);
    println!("{handed_over} of {} were handed over", names.len());
    expect_two_ready(&scratch);
    server.stop();
}

/// Requests that are whole in the server's socket when their client dies, before it reads them.
#[apply(test)]
#[case::acquire("/v1/acquire")]
#[case::open("/v1/open")]
fn a12_requests_of_dead_clients_leave_nothing(scratch: Scratch, #[case] path: &str) {
    let mut server = Server::of_one_base(&scratch);
    let base = server::base(&scratch);
    let mut names = BTreeSet::new();
    if path == "/v1/open" {
        // From then on the server has a directory for these.
        server.post(path, &json!({ "base": base }));
        server.await_ready_overlays(2);
    }
    let before = open_files(server.pid());
    for round in 0..ROUNDS {
        let mut connections = Vec::new();
        server.signal(Signal::STOP);
        for number in 0..CLIENTS {
            let name = format!("vm-{round}-{number}");
            let body: Value = match path {
                "/v1/open" => json!({ "base": base }),
                _ => json!({ "base": base, "target": server::vms(&scratch).join(&name) }),
            };
            let (body, head) = (body.to_string(), format!("POST {path} HTTP/1.1\r\nhost: x\r\n"));
            let head = format!("{head}content-type: application/json\r\n");
            let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            let mut stream = UnixStream::connect(server.socket()).expect("a connection");
            // Some die in the middle of their request.
            let sent = if number == 0 { request.len() / 2 } else { request.len() };
            stream.write_all(&request.as_bytes()[..sent]).expect("it is sent");
            connections.push(stream);
            names.insert(name);
        }
        drop(connections);
        server.signal(Signal::CONT);
    }
    await_rest(&mut server, before);
    if path == "/v1/acquire" {
        check_targets(&mut server, &scratch, &names);
    }
    expect_two_ready(&scratch);
    server.stop();
}

/// Who wants to know what became of a request ends only what it says, and reads on: then there is
/// an answer, or there was nothing to answer to.
#[apply(test)]
fn a12_half_of_a_request_is_answered_with_the_end(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let mut client = server.client();
    let target = server::vms(&scratch).join("vm");
    client.send(b"POST /v1/acquire HTTP/1.1\r\nhost: x\r\ncontent-type: ").expect("sent");
    client.stream().shutdown(std::net::Shutdown::Write).expect("its end");
    assert!(client.is_closed() && !target.exists());
    server.stop();
}

/// The pool directory holds what is ready and nothing else.
#[track_caller]
fn expect_two_ready(scratch: &Path) {
    let [directory] = directories(scratch).try_into().expect("one pool directory");
    let entries = std::fs::read_dir(directory).expect("the pool directory");
    assert_eq!(entries.count(), 2);
}
