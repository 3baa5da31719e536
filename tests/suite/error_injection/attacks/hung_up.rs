//! A client that hung up before its request was read gets nothing.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::http::request;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const CLIENTS: usize = 20;

#[apply(test)]
fn a12_nothing_is_handed_over_to_who_hung_up(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let mut staying = server.client();
    assert_eq!(staying.get("/livez").expect("an answer").status, 200);
    server.signal(Signal::STOP);
    for number in 0..CLIENTS {
        let target = server::vms(&scratch).join(number.to_string());
        let body = json!({ "base": server::base(&scratch), "target": target }).to_string();
        let request = request("POST", "/v1/acquire", Some(&body));
        server.client().send(request.as_bytes()).expect("sent, and hung up");
    }
    server.signal(Signal::CONT);
    server.await_that("all were read", |_| {
        let metrics = staying.get("/metrics").expect("figures").body;
        metrics.lines().any(|line| line == "overlay_pool_http_connections 1")
    });
    let left = std::fs::read_dir(server::vms(&scratch)).expect("the targets").count();
    let stats: Value = staying.get("/v1/stats").expect("figures").json();
    assert_eq!((left, &stats["pooled"], &stats["on_demand"]), (0, &json!(0), &json!(0)));
    assert_eq!(server.ready(), 2);
}
