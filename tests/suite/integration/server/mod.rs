//! The pool as a service: a real server, real sockets.

mod base_gone;
mod client;
mod creator;
mod crowd;
mod examples;
mod held;
mod images;
mod killed_clients;
mod leases;
mod lifecycle;
mod limits;
mod manager;
mod metrics;
pub(super) mod monitoring;
mod names;
mod open;
mod openapi;
mod others;
mod packaged_clients;
mod schemathesis;
mod security;
mod socket;
mod space;
mod strange_programs;
mod strange_servers;
mod systemd;
mod tcp_metrics;
mod without_vms;

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::fake_tool::waiting_qemu_img;
use crate::harness::http::{Client, request};
use crate::harness::scratch::names;
use crate::harness::server::{self, Server};

/// A server of one base image with more arguments.
#[track_caller]
fn start(scratch: &Path, more: &[&str]) -> Server {
    server::one_base(scratch);
    let mut args = server::one_base_args(scratch);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Server::start(scratch, args)
}

/// A `PATH` with a `qemu-img` whose creations end only, and fail, once there is a file `go`.
fn hanging_tools(scratch: &Path) -> String {
    let tools = scratch.join("tools");
    std::fs::create_dir(&tools).expect("a folder");
    waiting_qemu_img(&tools, &scratch.join("go"), "[ \"$1\" != create ] && echo 0");
    format!("{}:{}", tools.display(), std::env::var("PATH").expect("a PATH"))
}

/// The bytes of a request to acquire, its body cut off behind the first byte, and the rest.
fn halves(base: &Path, target: &Path) -> (String, String) {
    let body = json!({ "base": base, "target": target }).to_string();
    let mut head = request("POST", "/v1/acquire", Some(&body));
    let rest = head.split_off(head.len() - body.len() + 1);
    (head, rest)
}

/// A connection on which a request is under way: the server waits for its body, which is given
/// back.
fn under_way(client: &mut Client, base: &Path, target: &Path) -> String {
    let (head, rest) = halves(base, target);
    let head = head.replacen("\r\n", "\r\nexpect: 100-continue\r\n", 1);
    client.send(head.as_bytes()).expect("it is sent");
    assert_eq!(client.answer().expect("to be told to go on").status, 100);
    rest
}

/// Whether a server refuses connections, or isn't to be found.
fn is_closed(socket: &Path) -> bool {
    Client::connect(socket).is_err()
}

/// A counter among the figures.
fn figure(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"))
}
