//! How much of a server one client gets, and for how long.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;

use super::{halves, start};
use crate::harness::faults::descriptors;
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[apply(test)]
#[case::no_json("POST /v1/acquire", "application/json", "{\"base\":", 400, "bad-request")]
#[case::garbage("POST /v1/acquire", "application/json", "\0\u{1b}[2J", 400, "bad-request")]
#[case::deep("POST /v1/acquire", "application/json", "[DEEP]", 422, "bad-request")]
#[case::empty("POST /v1/acquire", "application/json", "", 400, "bad-request")]
#[case::list("POST /v1/acquire", "application/json", "[]", 422, "bad-request")]
#[case::no_target("POST /v1/acquire", "application/json", r#"{"base":"/b"}"#, 422, "bad-request")]
#[case::numbers("POST /v1/acquire", "application/json", r#"{"base":1}"#, 422, "bad-request")]
#[case::unknown("POST /v1/bases", "application/json", r#"{"path":"/b","x":1}"#, 422, "bad-request")]
#[case::format(
    "POST /v1/bases",
    "application/json",
    r#"{"path":"/b","format":"vmdk"}"#,
    422,
    "bad-request"
)]
#[case::negative(
    "POST /v1/open",
    "application/json",
    r#"{"base":"/b","virtual_size":-1}"#,
    422,
    "bad-request"
)]
#[case::no_type("POST /v1/acquire", "", "{}", 415, "bad-request")]
#[case::other_type("POST /v1/acquire", "text/plain", "{}", 415, "bad-request")]
#[case::too_large("POST /v1/acquire", "application/json", "[LARGE]", 413, "too-large")]
#[case::nowhere("GET /v1/nothing", "", "", 404, "not-found")]
#[case::up("GET /v1/../../etc/passwd", "", "", 404, "not-found")]
#[case::method("GET /v1/acquire", "", "", 405, "method-not-allowed")]
#[case::odd_method("PURGE /v1/stats", "", "", 405, "method-not-allowed")]
#[case::query("DELETE /v1/bases/%2Fb?format=vmdk", "", "", 400, "bad-request")]
#[case::odd_path("DELETE /v1/bases/%ff%fe", "", "", 400, "bad-request")]
#[case::relative("DELETE /v1/bases/b", "", "", 400, "bad-request")]
#[case::unknown_base("DELETE /v1/bases/%2Fb", "", "", 404, "unknown-base")]
fn what_cannot_be_understood_is_a_problem(
    scratch: Scratch,
    #[case] line: &str,
    #[case] kind: &str,
    #[case] body: &str,
    #[case] status: u16,
    #[case] error: &str,
) {
    let server = start(&scratch, &[]);
    let body = match body {
        "[LARGE]" => format!("{{\"base\":\"{}\"}}", "x".repeat(65 << 10)),
        "[DEEP]" => "[".repeat(60 << 10),
        body => body.to_owned(),
    };
    let kind = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
    let head =
        format!("{line} HTTP/1.1\r\nhost: pool\r\n{kind}content-length: {}\r\n\r\n", body.len());
    let mut client = server.client();
    client.send(head.as_bytes()).expect("the head");
    // A body that is refused may not be read to its end.
    let _ = client.send(body.as_bytes());
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.problem(status), error, "{answer:?}");
    assert_eq!(server.get("/livez").status, 200);
}

/// What isn't HTTP at all is the library's to refuse: with a status alone, and the connection
/// ends.
#[apply(test)]
#[case::garbage(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400)]
#[case::no_version(b"GET /livez\r\n\r\n", 400)]
#[case::two_lengths(
    b"POST /v1/drain HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    400
)]
#[case::chunked_and_length(b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n", 400)]
fn garbage_after_a_good_request(scratch: Scratch, #[case] garbage: &[u8], #[case] status: u16) {
    let server = start(&scratch, &[]);
    let mut client = server.client();
    client.send(b"GET /livez HTTP/1.1\r\nhost: pool\r\n\r\n").expect("a request");
    client.send(garbage).expect("garbage");
    assert_eq!(client.answer().expect("an answer").status, 200, "the good one is answered");
    assert_eq!(client.answer().expect("an answer").status, status);
    assert!(client.is_closed());
    assert_eq!(server.get("/livez").status, 200);
}

#[apply(test)]
fn a_head_has_an_end(scratch: Scratch, #[values(true, false)] one_header: bool) {
    let server = start(&scratch, &[]);
    let mut client = server.client();
    client.send(b"GET /livez HTTP/1.1\r\nhost: pool\r\n").expect("a request");
    let deadline = Instant::now() + PATIENCE;
    let line = if one_header { "x".to_owned() } else { "x: y\r\n".to_owned() }.repeat(1000);
    if one_header {
        let _ = client.send(b"x: ");
    }
    // It is refused, and nothing more of it is read.
    while client.send(line.as_bytes()).is_ok() {
        assert!(Instant::now() < deadline, "the server reads on and on");
    }
    let status = client.answer().map(|answer| answer.status);
    assert!(status.as_ref().map_or(true, |status| *status == 431), "{status:?}");
    assert_eq!(server.get("/livez").status, 200);
}

/// What the socket has no room for waits until the client reads.
#[apply(test)]
fn who_reads_late_has_all_answers(scratch: Scratch) {
    // Several times what a socket holds, and fewer bytes of requests than it does.
    const ASKED: usize = 2000;
    let mut server = start(&scratch, &[]);
    let mut client = server.client();
    let request = "GET /livez HTTP/1.1\r\nhost: pool\r\n\r\n";
    client.send(request.repeat(ASKED).as_bytes()).expect("requests");
    let (mut before, mut looks) = (0, 0);
    server.await_that("nothing more comes, since the socket is full", |_| {
        let waiting = ioctl_fionread(client.stream()).expect("how much waits");
        let is_same = waiting > 0 && waiting == std::mem::replace(&mut before, waiting);
        looks = if is_same { looks + 1 } else { 0 };
        looks == 10
    });
    for _ in 0..ASKED {
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    server.stop();
}

/// Whether a client that sends a byte every so often is cut off.
#[track_caller]
fn is_cut_off(client: &mut Client, bytes: &mut dyn Iterator<Item = u8>) {
    let deadline = Instant::now() + PATIENCE;
    for byte in bytes {
        if client.send(&[byte]).is_err() {
            return;
        }
        assert!(Instant::now() < deadline, "the server goes on listening");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the server listened to the end");
}

#[apply(test)]
fn a_slow_head_is_cut_off(scratch: Scratch) {
    let server = start(&scratch, &["--client-timeout", "300ms"]);
    let mut client = server.client();
    client.send(b"GET /livez HTTP/1.1\r\nx: ").expect("a beginning");
    is_cut_off(&mut client, &mut std::iter::repeat(b'x'));
}

#[apply(test)]
fn silence_is_cut_off(scratch: Scratch, #[values(true, false)] used: bool) {
    let server = start(&scratch, &["--client-timeout", "300ms"]);
    let mut client = server.client();
    if used {
        assert_eq!(client.get("/livez").expect("an answer").status, 200);
    }
    assert!(client.is_closed());
}

/// The longest times there are mean never, and overflow nothing.
#[apply(test)]
fn times_without_end(scratch: Scratch) {
    let times = ["--client-timeout", "--request-timeout", "--drain-timeout"];
    let arguments: Vec<_> = times.iter().flat_map(|time| [*time, "500000000000y"]).collect();
    let server = start(&scratch, &arguments);
    assert_eq!(server.get("/livez").status, 200);
}

#[apply(test)]
fn a_slow_body_is_cut_off(scratch: Scratch) {
    let server = start(&scratch, &["--request-timeout", "300ms"]);
    let target = server::vms(&scratch).join("vm.qcow2");
    let (head, _) = halves(&server::base(&scratch), &target);
    let mut client = server.client();
    client.send(head.as_bytes()).expect("a beginning");
    is_cut_off(&mut client, &mut std::iter::repeat(b' '));
    assert_eq!(client.answer().expect("an answer").problem(504), "timed-out");
    assert!(client.is_closed() && !target.exists());
}

/// Requests without end whose answers nobody reads.
#[apply(test)]
fn unread_answers_are_cut_off(scratch: Scratch) {
    let server = start(&scratch, &["--client-timeout", "300ms"]);
    let mut client = server.client();
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: pool\r\n\r\n".repeat(100);
    let error = loop {
        if let Err(error) = client.stream().write_all(requests.as_bytes()) {
            break error;
        }
    };
    let gone = [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::ConnectionReset];
    assert!(gone.contains(&error.kind()), "{error}");
    assert_eq!(server.get("/livez").status, 200);
}

#[apply(test)]
fn a_client_has_so_many_connections(scratch: Scratch) {
    let mut server = start(&scratch, &["--max-connections-per-client", "3"]);
    let mut clients = Vec::new();
    server.await_that("there is room for three", |server| {
        // Those that asked whether it is ready may still be counted.
        let mut client = server.client();
        if client.get("/livez").expect("an answer").status == 200 {
            clients.push(client);
        }
        clients.len() == 3
    });
    for _ in 0..10 {
        assert_eq!(server.get("/livez").problem(503), "too-many-connections");
    }
    assert_eq!(clients[0].get("/livez").expect("an answer").status, 200);
    drop(clients);
    server.await_that("there is room again", |server| server.get("/livez").status == 200);
}

#[apply(test)]
fn all_have_so_many_connections(scratch: Scratch) {
    let mut server = start(&scratch, &["--max-connections", "2"]);
    let clients: Vec<_> = (0..2).map(|_| server.client()).collect();
    server.await_that("it is full", |server| server.get("/livez").status == 503);
    drop(clients);
    server.await_that("there is room again", |server| server.get("/livez").status == 200);
}

/// Has the only connection that there is room for. Those that asked whether the server is ready may still
/// be counted.
fn the_one_client(server: &mut Server) -> Client {
    let mut first = None;
    server.await_that("there is room for one", |server| {
        let mut client = server.client();
        let admitted = client.get("/livez").expect("an answer").status == 200;
        first = admitted.then_some(client);
        admitted
    });
    first.expect("it was admitted")
}

/// Those that have gone again are in nobody's way.
#[apply(test)]
fn who_comes_later_is_told_why_too(scratch: Scratch) {
    let mut server = start(&scratch, &["--max-connections-per-client", "1"]);
    let first = the_one_client(&mut server);
    // Several times as many as are told at once.
    for _ in 0..300 {
        let answer = server.client().answer().expect("an answer");
        assert_eq!(answer.problem(503), "too-many-connections");
    }
    drop(first);
    server.stop();
}

/// A client may send all of its request before it reads why it is turned away; and when it is gone,
/// nothing is left of it.
#[apply(test)]
fn who_is_turned_away_is_heard_out(scratch: Scratch) {
    let mut server = start(&scratch, &["--max-connections-per-client", "1"]);
    let first = the_one_client(&mut server);
    let open = |server: &Server| descriptors::open(server.pid()).expect("its descriptors").len();
    let before = open(&server);
    let request = "GET /livez HTTP/1.1\r\nhost: pool\r\n\r\n".repeat(10_000);
    for _ in 0..8 {
        let mut away = server.client();
        away.stream().write_all(request.as_bytes()).expect("all of it is taken");
        assert_eq!(away.answer().expect("an answer").problem(503), "too-many-connections");
    }
    server.await_that("they are forgotten", |server| open(server) <= before);
    drop(first);
    server.stop();
}
