//! What clients name reaches the log, and nothing of it the terminal that the log is read on.

use serde_json::json;

use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

#[apply(test)]
fn names_cannot_forge_lines_of_the_log(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let name = "a\nFAKE root logged in\u{1b}[2J\u{9b}2J\r\u{202e}";
    let target = server::vms(&scratch).join(name);
    let request = json!({ "base": server::base(&scratch), "target": target });
    assert_eq!(server.post("/v1/acquire", &request).status, 200);
    let log = server.log();
    assert!(log.contains("FAKE root logged in"), "the name isn't in the log: {log}");
    assert!(!log.lines().any(|line| line.starts_with("FAKE")), "{log}");
    let is_plain = |char: char| char == '\n' || !(char.is_control() || char == '\u{202e}');
    assert!(log.chars().all(is_plain), "{log:?}");
}

#[apply(test)]
fn the_log_says_where_it_listens_and_nothing_of_each_connection(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    assert_eq!(server.get("/livez").status, 200);
    let log = server.log();
    let socket = format!("listening socket={}", server.socket().display());
    assert!(log.contains(&socket) && !log.contains("Some("), "{log}");
    let of_connections = |line: &&str| line.contains(" INFO ") && line.contains("connection");
    assert_eq!(log.lines().filter(of_connections).count(), 0, "{log}");
}
