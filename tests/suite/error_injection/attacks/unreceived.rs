//! Descriptors that a client doesn't receive are its own trouble.

use std::path::Path;

use serde_json::json;

use crate::harness::faults::descriptors;
use crate::harness::http::{Client, request};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};
use crate::harness::somebody::{FRIENDS, as_somebody, served_to_friends};

/// More than a user may have that it didn't receive.
const OPENS: usize = 80;

/// A client that asks for one open file after the other, receives none, and was refused more. What
/// others open meanwhile would count too.
fn hostile(server: &mut Server, scratch: &Path, end: &str) -> Client {
    let before = refused(server);
    let mut client = server.client();
    for number in 0..OPENS {
        let last = if number + 1 == OPENS { end } else { "" };
        client.send(open(scratch, last).as_bytes()).expect("sent");
    }
    server.await_that("it has had enough", |server| refused(server) > before);
    client
}

/// A request for an open file, with a header more if it is to be the last.
fn open(scratch: &Path, last: &str) -> String {
    let body = json!({ "base": server::base(scratch) }).to_string();
    let request = request("POST", "/v1/open", Some(&body));
    request.replacen("\r\n", &format!("\r\n{last}"), 1)
}

/// How many requests were answered with 503.
fn refused(server: &Server) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find(|line| line.contains("{code=\"503\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[apply(test)]
#[needs(Root)]
#[case::and_stays("")]
#[needs(Root)]
#[case::and_has_it_closed("connection: close\r\n")]
fn others_open_files_while_one_receives_none(scratch: Scratch, #[case] end: &'static str) {
    let (mut server, run) = served_to_friends(&scratch, |_| {});
    let mut client = hostile(&mut server, &scratch, end);
    let base = server::base(&scratch);
    let open = move |client: &mut Client| client.post("/v1/open", &json!({ "base": base }));
    // All of one user count together.
    let answer = open(&mut server.client()).expect("an answer");
    assert_eq!(answer.problem(503), "too-many-descriptors");
    let others = open.clone();
    let answers = as_somebody(&run, &[FRIENDS], move |client| {
        (0..10).map(|_| others(client)).collect::<Result<Vec<_>, _>>()
    });
    for answer in answers.expect("answers") {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // What was answered is all there, and once it is received there is room again.
    let statuses: Vec<_> = (0..OPENS).map(|_| client.answer().expect("an answer").status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    server.await_that("there is room again", |server| {
        open(&mut server.client()).expect("an answer").status == 200
    });
}

#[apply(test)]
fn what_nobody_can_receive_any_more_counts_no_more(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let client = hostile(&mut server, &scratch, "");
    let request = json!({ "base": server::base(&scratch) });
    server
        .await_that("it has had enough", |server| server.post("/v1/open", &request).status == 503);
    drop(client);
    server.await_that("there is room again", |server| {
        server.post("/v1/open", &request).status == 200
    });
}

/// A client that is gone leaves nothing open: the connection goes with it, however much of it was
/// never received.
#[apply(test)]
fn what_was_never_received_goes_with_its_client(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    server.await_ready_overlays(2);
    let mut staying = server.client();
    let sockets = |server: &Server| {
        let mut open = descriptors::open(server.pid()).expect("its descriptors");
        open.retain(|to| to.to_string_lossy().starts_with("socket:"));
        open.len()
    };
    server.await_that("this is the only one", |_| {
        let metrics = staying.get("/metrics").expect("figures").body;
        metrics.lines().any(|line| line == "overlay_pool_http_connections 1")
    });
    let before = sockets(&server);
    for end in ["", "connection: close\r\n"] {
        let mut client = server.client();
        let handed_over = |staying: &mut Client| {
            let stats = staying.get("/v1/stats").expect("figures").json();
            stats["pooled"].as_u64().zip(stats["on_demand"].as_u64()).map(|(a, b)| a + b)
        };
        let one_more = handed_over(&mut staying).map(|count| count + 1);
        client.send(open(&scratch, end).as_bytes()).expect("sent");
        server.await_that("it is sent", |_| handed_over(&mut staying) == one_more);
        drop(client);
        server.await_that("nothing of it is open", |server| sockets(server) <= before);
    }
}
