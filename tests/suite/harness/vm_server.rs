//! `overlay-pool serve` with VMs, and what it tells of programs.

use std::io;
use std::path::Path;
use std::process::Command;

use overlay_pool::vm::VmSettings;
use serde_json::{Value, json};

use super::http::{self, Client, Response};
use super::server::Server;
use super::vms::{images, states};

/// A server's command, to be given more arguments and launched; its VMs share the tests' states.
pub(crate) fn command(scratch: &Path, vms: u32) -> Command {
    with_vms(Server::command(scratch), vms)
}

/// Has a server's command run VMs.
pub(crate) fn with_vms(mut command: Command, vms: u32) -> Command {
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    command.env("OVERLAY_POOL_STATES", states());
    command.arg("--guest-images").arg(images());
    command.args(["--vms", &vms.to_string(), "--accel", accelerator.as_str()]);
    command
}

/// A server that has so many VMs at most.
#[track_caller]
pub(crate) fn start(scratch: &Path, vms: u32, args: &[&str]) -> Server {
    let mut server = Server::launch(scratch, command(scratch, vms).args(args));
    server.await_ready();
    server
}

/// Waits until so many VMs of a language wait, which takes long on a loaded machine.
pub(crate) fn until_ready(server: &Server, language: &str, count: u64) {
    let series = format!("overlay_pool_vms_ready{{language=\"{language}\"}}");
    while figure(server, &series) != Some(count) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A figure of the server's, if it has it.
#[track_caller]
pub(crate) fn figure(server: &Server, series: &str) -> Option<u64> {
    let text = server.get("/metrics").body;
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) events: Vec<Value>,
}

impl Ran {
    /// The events of a whole answer.
    #[track_caller]
    pub(crate) fn of(response: &Response) -> Self {
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
        let event = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let events: Vec<Value> = response.body.lines().map(event).collect();
        assert_eq!(events[0]["event"], "begun", "{events:#?}");
        Self { events }
    }

    pub(crate) fn last(&self) -> &Value {
        self.events.last().expect("an event")
    }

    /// The text of an output.
    pub(crate) fn text(&self, stream: &str) -> String {
        let of = self.events.iter().filter(|event| event["event"] == stream);
        of.map(|event| event["data"]["text"].as_str().expect("text")).collect()
    }

    /// What a program printed that ended well.
    #[track_caller]
    pub(crate) fn printed(&self) -> String {
        assert_eq!((&self.last()["event"], &self.last()["exit_code"]), (&json!("end"), &json!(0)));
        assert_eq!(self.text("stderr"), "");
        self.text("stdout")
    }
}

/// Runs a program in a VM of its own.
#[track_caller]
pub(crate) fn execute(server: &Server, request: &Value) -> Ran {
    Ran::of(&server.post("/v1/execute", request))
}

/// Sends a form: its parts with their headers, each body as it is.
pub(crate) fn send_form(
    client: &mut Client,
    path: &str,
    parts: &[(&str, &[u8])],
) -> io::Result<()> {
    let mut body = Vec::new();
    for (disposition, bytes) in parts {
        let head = format!("--x\r\ncontent-disposition: form-data; {disposition}\r\n\r\n");
        body.extend([head.as_bytes(), bytes, b"\r\n"].concat());
    }
    body.extend(b"--x--\r\n");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: pool\r\ncontent-type: multipart/form-data; boundary=x\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    client.send(&[head.as_bytes(), &body].concat())
}

/// Asks for a program and doesn't wait for its end: the connection, and what came until an event
/// says what the program wrote.
#[track_caller]
pub(crate) fn begin(server: &Server, path: &str, request: &Value) -> (Client, Vec<Value>) {
    let mut client = server.client();
    let request = http::request("POST", path, Some(&request.to_string()));
    client.send(request.as_bytes()).expect("it is sent");
    let response = client.head().expect("an answer");
    assert_eq!(response.status, 200, "{response:?}\n{}", server.log());
    let mut events = Vec::new();
    while !events.iter().any(|event: &Value| event["event"] == "stdout") {
        events.push(next(&mut client).expect("an event"));
    }
    (client, events)
}

/// The next event of an answer; each comes as a chunk of its own. None at the end.
pub(crate) fn next(client: &mut Client) -> Option<Value> {
    let chunk = client.chunk().expect("a chunk")?;
    Some(serde_json::from_slice(&chunk).expect("one event"))
}
