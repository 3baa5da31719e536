//! `--metrics-listen`: what a Prometheus on another host is told.

use std::io::Read;
use std::net::TcpListener;

use serde_json::json;

use super::start;
use crate::harness::cli::{overlay_pool, run};
use crate::harness::http::{Client, metrics_address, scrape};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};
use crate::integration::server::names;

#[apply(test)]
fn t1_over_tcp_it_is_told_the_same(scratch: Scratch) {
    let server = start(&scratch, &["--metrics-listen", "0"]);
    let address = metrics_address(&server.log());
    assert!(address.ip().is_loopback(), "{address}");
    assert_eq!(
        server.acquire(&server::base(&scratch), &server::vms(&scratch).join("vm")).status,
        200
    );
    let [told, expected] = [scrape(address), server.get("/metrics")];
    assert_eq!((told.status, told.header("content-type")), (200, expected.header("content-type")));
    let of = |text: &str| -> Vec<String> {
        let lines =
            text.lines().filter(|line| !line.contains("_http_") && !line.contains("_free_"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(of(&told.body), of(&expected.body));
    assert!(told.body.contains("overlay_pool_acquires_total{source=\"pooled\"} 1\n"), "{told:?}");
    server.stop();
}

/// Nobody acquires or looks at anything else there.
#[apply(test)]
fn nothing_else_can_be_asked_for_over_tcp(scratch: Scratch) {
    let server = start(&scratch, &["--metrics-listen", "127.0.0.1:0"]);
    let address = metrics_address(&server.log());
    let ask = |method: &str, path: &str, body: Option<&str>| {
        let client = Client::connect_to(address);
        client.and_then(|mut client| client.ask(method, path, body)).expect("an answer").status
    };
    let wanted = json!({
        "base": server::base(&scratch), "target": server::vms(&scratch).join("vm"),
    });
    assert_eq!(ask("POST", "/v1/acquire", Some(&wanted.to_string())), 404);
    for path in ["/", "/v1/stats", "/v1/disks", "/openapi.json", "/metrics/", "//metrics"] {
        assert_eq!(ask("GET", path, None), 404, "{path}");
    }
    assert_eq!((ask("POST", "/metrics", Some("{}")), ask("DELETE", "/metrics", None)), (405, 405));
    assert_eq!(ask("GET", "/metrics?format=text", None), 200);
    assert_eq!(names(&server::vms(&scratch)), [""; 0]);
    server.stop();
}

/// Who connects and says nothing, too much or nonsense is in nobody's way but others' there.
#[apply(test)]
fn whoever_floods_it_keeps_nobody_from_disks(scratch: Scratch) {
    let server = start(&scratch, &["--metrics-listen", "0"]);
    let address = metrics_address(&server.log());
    let silent: Vec<_> =
        (0..100).map(|_| Client::connect_to(address).expect("connected")).collect();
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    assert_eq!(server.acquire(&base, &vms.join("1")).status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    drop(silent);
    assert_eq!(scrape(address).status, 200, "they are gone");
    for nonsense in [vec![b'x'; 1 << 16], b"GET /metrics HTTP/9\r\n\r\n".to_vec()] {
        let mut client = Client::connect_to(address).expect("connected");
        let _ = client.send(&nonsense);
        let mut answer = Vec::new();
        let _ = client.stream().read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(scrape(address).status, 200);
    // And who is connected keeps no server from its end.
    let _silent = Client::connect_to(address).expect("connected");
    server.stop();
}

#[apply(test)]
fn a_port_that_is_taken_is_named(scratch: Scratch) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    server::one_base(&scratch);
    let mut command = overlay_pool(&scratch);
    command.arg("serve").args(server::one_base_args(&scratch));
    command.args(["--socket", "pool.sock", "--metrics-listen", &address]);
    let refused = run(&mut command);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains(&format!("--metrics-listen {address}: ")), "{refused}");
    assert!(!scratch.join("pool.sock").exists());
}

#[apply(test)]
fn a_file_may_say_where(scratch: Scratch) {
    std::fs::write(scratch.join("serve.toml"), "metrics-listen = \"[::1]:0\"\n").expect("a file");
    let config = scratch.join("serve.toml");
    let mut args = server::one_base_args(&scratch);
    server::one_base(&scratch);
    args.extend(["--config".to_owned(), config.display().to_string()]);
    let server = Server::start(&scratch, args);
    let address = metrics_address(&server.log());
    assert!(address.is_ipv6() && scrape(address).status == 200, "{address}");
    server.stop();
}
