//! One user floods the server; another's requests are answered in between.
//!
//! What is counted is how many turns others had before whose, as the server's log has them: how
//! long it takes is the machine's affair. What comes at once is sent while the server is stopped, so that
//! everything is there when it goes on.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::{self, Server};
use crate::harness::somebody::{FRIENDS, connections_of_somebody, served_to_friends};

const CONNECTIONS: usize = 64;
/// How many requests the flood has on each connection, one after the other.
const PIPELINED: usize = 50;
/// At least so many turns came before one of the flood's, which has one user's threads and queue.
const WAITED: usize = 16;
/// How many requests somebody else makes meanwhile.
const PATIENT: usize = 20;

/// A server for a group, with one thread that reads and answers: it begins with the requests in the
/// order in which they were sent.
fn served(scratch: &Path, more: &[&str]) -> (Server, PathBuf) {
    served_to_friends(scratch, |command| {
        command.args(more).env("TOKIO_WORKER_THREADS", "1");
    })
}

/// An acquire at a target of this name, with more lines in its head.
fn acquire(scratch: &Path, name: &str, head: &str, length: Option<usize>) -> (String, String) {
    let target = server::vms(scratch).join(name);
    let body = json!({ "base": server::base(scratch), "target": target }).to_string();
    let length = length
        .map_or(String::new(), |length| format!("content-length: {}\r\n", body.len().max(length)));
    let head = format!(
        "POST /v1/acquire HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json\r\n{head}{length}\r\n"
    );
    (head, body)
}

/// So many acquires, one behind the other.
fn pipelined(scratch: &Path, name: &str, count: usize) -> String {
    let one = |number| {
        let (head, body) = acquire(scratch, &format!("{name}-{number}"), "", Some(0));
        head + &body
    };
    (0..count).map(one).collect()
}

/// How many turns there were between each request of a user and its own, as the log has them.
fn turns_before(server: &Server, uid: u32) -> Vec<usize> {
    let (log, uid) = (server.log(), format!(" uid {uid} "));
    let turns = log.lines().filter(|line| line.contains("turn peer=") && line.contains(&uid));
    let number = |line: &str| line.rsplit_once("meanwhile=")?.1.trim().parse().ok();
    turns.map(|line| number(line).unwrap_or_else(|| panic!("no number: {line}"))).collect()
}

fn expect_all(client: &mut Client, count: usize) {
    for number in 0..count {
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
    }
}

/// Whoever sends more requests at once waits longer, and nobody else does.
#[apply(test)]
#[needs(Root)]
fn users_take_turns(scratch: Scratch) {
    let (server, run) = served(&scratch, &[]);
    server.signal(Signal::STOP);
    let mut flood = connections_of_somebody(&run, &[FRIENDS], CONNECTIONS).expect("connections");
    for (number, client) in flood.iter_mut().enumerate() {
        let requests = pipelined(&scratch, &format!("flood-{number}"), PIPELINED);
        client.send(requests.as_bytes()).expect("sent");
    }
    let mut patient = server.client();
    patient.send(pipelined(&scratch, "patient", PATIENT).as_bytes()).expect("sent");
    server.signal(Signal::CONT);
    expect_all(&mut patient, PATIENT);
    for client in &mut flood {
        expect_all(client, PIPELINED);
    }

    let most = |uid| turns_before(&server, uid).into_iter().max().expect("turns");
    let (patient, flood) = (most(0), most(SOMEBODY));
    println!("at most {patient} turns before one of the patient's, {flood} before the flood's");
    assert!(flood > WAITED, "at most {flood}: there was no flood");
    // One of the flood's before each of this user's, which has the look at bases in use beside.
    assert!(patient <= 3, "{patient} turns before one of the patient's");
    server.stop();
}

/// Requests whose bodies are large, in pieces, or don't come to their end, and new connections all
/// the time: a user has places for some at once, and others have places of their own.
#[apply(test)]
#[needs(Root)]
fn slow_and_large_requests_are_their_users_affair(scratch: Scratch) {
    let mut more = vec!["--max-connections", "300", "--max-connections-per-client", "200"];
    // None of them gives its place back on a machine that is slow itself.
    more.extend(["--request-timeout", "1h", "--client-timeout", "1h"]);
    let (server, run) = served(&scratch, &more);
    let somebodies = |count| connections_of_somebody(&run, &[FRIENDS], count).expect("connections");
    // As many as there are places; told to go on, each has its own.
    let mut slow = somebodies(CONNECTIONS);
    for (number, client) in slow.iter_mut().enumerate() {
        let head = "expect: 100-continue\r\n";
        let (head, body) = acquire(&scratch, &format!("slow-{number}"), head, Some(1 << 15));
        client.send(format!("{head}{}", &body[..body.len() / 2]).as_bytes()).expect("sent");
        assert_eq!(client.head().expect("a word").status, 100);
    }
    server.signal(Signal::STOP);
    let mut large = somebodies(CONNECTIONS);
    for (number, client) in large.iter_mut().enumerate() {
        let (head, body) = acquire(&scratch, &format!("large-{number}"), "", Some(1 << 15));
        client.send(format!("{head}{body:32768}").as_bytes()).expect("sent");
    }
    let mut chunked = somebodies(CONNECTIONS / 2);
    for (number, client) in chunked.iter_mut().enumerate() {
        let head = "transfer-encoding: chunked\r\n";
        let (head, body) = acquire(&scratch, &format!("chunked-{number}"), head, None);
        let chunks: Vec<_> = body.chars().map(|char| format!("1\r\n{char}\r\n")).collect();
        client.send(format!("{head}{}0\r\n\r\n", chunks.concat()).as_bytes()).expect("sent");
    }
    let mut patient = server.client();
    patient.send(pipelined(&scratch, "patient", PATIENT).as_bytes()).expect("sent");
    server.signal(Signal::CONT);
    expect_all(&mut patient, PATIENT);
    for number in 0..CONNECTIONS {
        let (head, _) = acquire(&scratch, &format!("again-{number}"), "", Some(0));
        for mut client in somebodies(1) {
            client.send(head.as_bytes()).expect("sent");
        }
        let name = format!("other-{number}");
        let answer = server.acquire(&server::base(&scratch), &server::vms(&scratch).join(name));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // The slow ones have all of this user's places; once they are gone, all others have had theirs.
    assert!(turns_before(&server, SOMEBODY).is_empty(), "their user has no further places");
    drop(slow);
    for client in large.iter_mut().chain(&mut chunked) {
        expect_all(client, 1);
    }
    server.stop();
}
