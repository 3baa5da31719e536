//! `GET /metrics`: what Prometheus is told.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::cli;
use crate::harness::prelude::*;
use crate::harness::python;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// Hands over one pooled overlay and one on demand, and refuses one; two are ready again then.
fn used(scratch: &Scratch) -> Server {
    let mut server = Server::of_one_base(scratch);
    let (base, vms) = (server::base(scratch), server::vms(scratch));
    let pooled = server.acquire(&base, &vms.join("pooled"));
    assert_eq!(pooled.json()["source"], "pooled");
    let larger = json!({ "base": base, "target": vms.join("larger"), "virtual_size": 2 << 20 });
    assert_eq!(server.post("/v1/acquire", &larger).json()["source"], "on-demand");
    assert_eq!(server.acquire(&base, &vms.join("pooled")).problem(409), "already-exists");
    server.await_ready_overlays(2);
    server.await_that("nothing is being made", |server| {
        let bases = server.get("/v1/bases").json();
        bases[0]["pending"] == 0
    });
    server
}

/// The value of one series.
#[track_caller]
fn value<T: FromStr>(text: &str, series: &str) -> T {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    value.parse().unwrap_or_else(|_| panic!("{series} is {value}"))
}

#[apply(test)]
fn t1_every_figure_is_there(scratch: Scratch) {
    let server = used(&scratch);
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut settings = cli::settings(&scratch);
    settings.add_filter(r"(?m)^(overlay_pool_\w+_(?:bucket|sum)(?:\{.*\})?) .+", "$1 [TIME]");
    settings.add_filter(r"(?m)^(overlay_pool_free_\w+) .+", "$1 [FREE]");
    settings.add_filter(r"(?m)^(overlay_pool_http_connections) .+", "$1 [N]");
    // The harness asks until the server is as it shall be.
    settings.add_filter(r#"(?m)^(.*\{code="(?:200|503)"\}) \d+"#, "$1 [N]");
    settings.add_filter(&env!("CARGO_PKG_VERSION").replace('.', r"\."), "[VERSION]");
    // In which order these come isn't told.
    let mut codes: Vec<&str> = answer
        .body
        .lines()
        .filter(|line| line.contains("{code=") && !line.contains("503"))
        .collect();
    codes.sort_unstable();
    let rest = answer.body.lines().filter(|line| !line.contains("{code="));
    let text: Vec<&str> = rest.chain(codes).collect();
    settings.bind(|| insta::assert_snapshot!("metrics", text.join("\n")));
    server.stop();
}

/// The histograms count what the counters count, each bucket what is in those before it too, and
/// no acquire takes longer than the whole test.
#[apply(test)]
fn t1_histograms_add_up(scratch: Scratch) {
    let server = used(&scratch);
    let text = server.get("/metrics").body;
    for (histogram, labels, expected) in [
        ("acquire_duration_seconds", r#"source="pooled""#, 1),
        ("acquire_duration_seconds", r#"source="on-demand""#, 1),
    ] {
        let name = format!("overlay_pool_{histogram}");
        let bucket = format!("{name}_bucket{{{labels},le=");
        let counts: Vec<u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&bucket)?.split_once("} ")?.1.parse().ok())
            .collect();
        assert_eq!(counts.len(), 26, "{name}");
        assert!(counts.is_sorted(), "{name}: {counts:?}");
        assert_eq!(value::<u64>(&text, &format!("{bucket}\"1e-06\"}}")), counts[0]);
        assert_eq!(counts.last().copied(), Some(expected), "{name}");
        assert_eq!(value::<u64>(&text, &format!("{name}_count{{{labels}}}")), expected, "{name}");
        let sum: f64 = value(&text, &format!("{name}_sum{{{labels}}}"));
        assert!(0.0 < sum && sum < 60.0, "{name}: {sum}");
    }
}

/// A gauge follows what it is about: a base image that changed, a drain, connections.
#[apply(test)]
fn t1_gauges_follow(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let base = server::base(&scratch);
    let of = |gauge: &str| -> u64 {
        let labels = format!("{{base=\"{}\",format=\"qcow2\"}}", base.display());
        value(&server.get("/metrics").body, &format!("overlay_pool_overlays_{gauge}{labels}"))
    };
    assert_eq!((of("ready"), of("stale"), of("target")), (2, 0, 2));
    Image::new(3 << 20).write(&base);
    assert_eq!((of("ready"), of("stale")), (2, 2));
    let state = |state: &str| -> u64 {
        let series = format!("overlay_pool_restocking{{state=\"{state}\"}}");
        value(&server.get("/metrics").body, &series)
    };
    assert_eq!((state("on"), state("drained")), (1, 0));
    assert_eq!(server.post("/v1/drain", &Value::Null).status, 200);
    assert_eq!((state("on"), state("drained")), (0, 1));
    assert_eq!((of("ready"), of("stale")), (0, 0));
    let _others = [server.client(), server.client()];
    let mut asking = server.client();
    // An accepted connection may not be counted yet when the next one asks.
    let mut connections = || -> u64 {
        let text = asking.get("/metrics").expect("an answer").body;
        value(&text, "overlay_pool_http_connections")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while connections() != 3 {
        assert!(Instant::now() < deadline, "three connections are never counted");
    }
}

const PARSE: &str = "\
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.buffer.read().decode()))
json.dump([[s.name, s.labels, s.value] for f in families for s in f.samples], sys.stdout)
";

/// By Prometheus' own parser: name, labels and value of every series, none of them twice.
#[track_caller]
fn parse(text: &str) -> Vec<(String, Value, Value)> {
    let mut parser = Command::new(python::program("python3"))
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the parser runs");
    let mut input = parser.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let output = parser.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{text}");
    let series: Vec<(String, Value, Value)> =
        serde_json::from_slice(&output.stdout).expect("its answer");
    for (at, (name, labels, _)) in series.iter().enumerate() {
        let again = series[..at].iter().any(|(other, of, _)| (other, of) == (name, labels));
        assert!(!again, "{name} {labels} is there twice");
    }
    series
}

/// A base image may have any name; each has figures of its own.
#[apply(test)]
#[needs(PrometheusClient)]
fn t1_any_name_is_a_label(scratch: Scratch) {
    let names: [&[u8]; 5] =
        [b"q\"uote\".qcow2", b"line\nend", br"back\slash\n", b"no\xff\xc3utf8", br"no\xff\xc3utf8"];
    let mut args: Vec<OsString> = ["--max-vms", "2"].map(Into::into).into();
    for name in names {
        let path = scratch.join(OsStr::from_bytes(name));
        Image::new(1 << 20).write(&path);
        args.extend(["--base".into(), path.into()]);
    }
    let server = Server::start(&scratch, args);
    let series = parse(&server.get("/metrics").body);
    let ready = series.iter().filter(|(name, ..)| name == "overlay_pool_overlays_ready");
    let mut bases: Vec<_> = ready
        .map(|(_, labels, value)| {
            assert_eq!(value.as_f64(), Some(1.0), "{labels}");
            let base = labels["base"].as_str().expect("a label");
            base.strip_prefix(&format!("{}/", scratch.display())).expect("its folder").to_owned()
        })
        .collect();
    bases.sort();
    let mut expected =
        ["q\"uote\".qcow2", "line\nend", r"back\\slash\\n", r"no\xff\xc3utf8", r"no\\xff\\xc3utf8"];
    expected.sort_unstable();
    assert_eq!(bases, expected);
}

#[apply(test)]
#[needs(PrometheusClient)]
fn t1_all_of_it_is_understood(scratch: Scratch) {
    let server = used(&scratch);
    let text = server.get("/metrics").body;
    let count = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(parse(&text).len(), count);
}
