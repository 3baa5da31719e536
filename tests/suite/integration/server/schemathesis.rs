//! A live server keeps what its `OpenAPI` document says, whatever it is asked.

use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::harness::prelude::*;
use crate::harness::python;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::Schemathesis];

/// How many requests of each operation are made up.
const EXAMPLES: &str = "25";

/// Forwards connections to a port of this host to the server's socket; schemathesis speaks TCP.
#[track_caller]
fn forward(socket: &Path) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its number").port();
    let socket = socket.to_owned();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(client), Ok(server)) = (client, UnixStream::connect(&socket)) else { continue };
            thread::spawn(move || pump(client, server));
        }
    });
    port
}

/// Copies both ways until either ends.
fn pump(client: TcpStream, server: UnixStream) -> io::Result<()> {
    let (mut requests, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut requests, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut answers, mut to_client) = (server, client);
    let copied = io::copy(&mut answers, &mut to_client);
    to_client.flush()?;
    to_client.shutdown(Shutdown::Both)?;
    copied.map(drop)
}

/// Runs all checks on a server by a document, with good requests, bad ones or all; fails with what
/// was found.
#[track_caller]
fn run(scratch: &Path, server: &Server, document: &Path, mode: &str) {
    let url = format!("http://127.0.0.1:{}", forward(server.socket()));
    let output = Command::new(python::program("schemathesis"))
        .arg("run")
        .arg(document)
        .args(["--url", &url, "--checks", "all", "--phases", "examples,coverage,fuzzing"])
        .args([
            "--mode",
            mode,
            "--max-examples",
            EXAMPLES,
            "--seed",
            "1",
            "--generation-deterministic",
        ])
        .args(["--no-color", "--continue-on-failure"])
        // Few strings that Hypothesis makes up are paths.
        .args(["--suppress-health-check", "filter_too_much,too_slow"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch)
        .output()
        .expect("schemathesis runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    println!("{said}");
    assert!(output.status.success(), "{complained}");
    assert_eq!(server.get("/livez").status, 200, "it lives on");
}

/// The published document, written where schemathesis finds it.
fn document(scratch: &Path, server: &Server, sharpen: impl FnOnce(&mut Value)) -> PathBuf {
    let mut document = server.get("/openapi.json").json();
    sharpen(&mut document);
    let path = scratch.join("openapi.json");
    std::fs::write(&path, document.to_string()).expect("a file");
    path
}

/// Whatever a client asks, the answer is one that the document names.
#[apply(test)]
fn a_server_is_as_described(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let document = document(&scratch, &server, |_| {});
    run(&scratch, &server, &document, "all");
    server.stop();
}

/// Also to a client who knows which paths there are, and so gets beyond the refusal of all others.
#[apply(test)]
fn a_server_is_as_described_to_who_knows_its_paths(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let document = document(&scratch, &server, |document| {
        let base = json!({ "type": "string", "enum": [server::base(&scratch)] });
        let vms = server::vms(&scratch).display().to_string();
        let target = json!({ "type": "string", "pattern": format!("^{vms}/[a-z]{{1,8}}$") });
        let format = json!({ "type": "string", "enum": ["qcow2"] });
        let schemas = &mut document["components"]["schemas"];
        for request in ["AcquireRequest", "OpenRequest", "BaseRequest"] {
            let properties = &mut schemas[request]["properties"];
            let sharper =
                [("base", &base), ("path", &base), ("target", &target), ("format", &format)];
            for (property, sharper) in sharper {
                if let Some(property) = properties.get_mut(property) {
                    *property = sharper.clone();
                }
            }
            // No disk may be smaller than the base image's.
            if let Some(size) = properties.get_mut("virtual_size") {
                size["minimum"] = json!(1 << 20);
            }
        }
    });
    // What this document calls bad may be good: other paths than these few.
    run(&scratch, &server, &document, "positive");
    // Those with an id may be removed by then.
    let stats = server.get("/v1/stats").json();
    let handed_over = ["pooled", "on_demand"].map(|source| stats[source].as_u64());
    assert!(handed_over.iter().flatten().sum::<u64>() > 0, "it got as far as an overlay: {stats}");
    server.stop();
}
