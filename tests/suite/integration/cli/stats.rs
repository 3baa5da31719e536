//! `stats`: what a server's pool holds and did.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use insta::Settings;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::cli::{assert_answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

fn stats(scratch: &Path, args: &[&str]) -> Command {
    let mut command = overlay_pool(scratch);
    command.arg("stats").arg("--socket").arg(server::socket(scratch)).args(args);
    command
}

/// A watch on pipes. Dropped, it is killed.
struct Watch(Child);

impl Watch {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it runs"))
    }

    fn lines(&mut self) -> impl Iterator<Item = Value> + use<> {
        let out = BufReader::new(self.0.stdout.take().expect("its output"));
        out.lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
    }

    /// Waits until it has said something on standard error, and gives the line.
    fn complaint(&mut self) -> String {
        let mut line = String::new();
        let mut errors = BufReader::new(self.0.stderr.as_mut().expect("its errors"));
        errors.read_line(&mut line).expect("a line");
        line
    }

    fn interrupt(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::INT).expect("a signal is sent");
        self.0.wait().expect("its end").code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[apply(test)]
fn what_is_no_socket_is_called_so(scratch: Scratch) {
    std::fs::write(scratch.join("pool.sock"), "a file").expect("a file");
    assert_answer!(scratch, "stats_no_socket", run(&mut stats(&scratch, &[])));
}

#[apply(test)]
fn t1_the_pool_is_shown(scratch: Scratch) {
    assert_answer!(scratch, "stats_no_server", run(&mut stats(&scratch, &[])));
    server::one_base(&scratch);
    // A full shelf stays as it is: its overlays aren't made again while this looks.
    let args =
        server::one_base_args(&scratch).into_iter().chain(["--restock-interval=9000000ms".into()]);
    let server = Server::start(&scratch, args);
    server.acquire(&server::base(&scratch), &server::vms(&scratch).join("a"));
    server.acquire(&server::base(&scratch), &server::vms(&scratch).join("a"));
    // How wide the table is depends on where the folder lies.
    let mut narrow = Settings::clone_current();
    narrow.add_filter(" {2,}", "  ");
    narrow.bind(|| {
        assert_answer!(scratch, "stats", run(&mut stats(&scratch, &[])));
        assert_answer!(scratch, "stats_json", run(&mut stats(&scratch, &["--json"])));
        server.post("/v1/drain", &json!(null));
        assert_answer!(scratch, "stats_drained", run(&mut stats(&scratch, &[])));
    });
    server.stop();
}

#[apply(test)]
fn it_is_said_why_a_base_image_is_refused(scratch: Scratch) {
    let images = scratch.join("images");
    std::fs::create_dir_all(&images).expect("a folder");
    std::fs::write(images.join("web-base-1.qcow2"), "<!doctype html>").expect("a file");
    let missing = scratch.join("missing.qcow2");
    let server = Server::start(&scratch, ["--images", "images", "--base", "missing.qcow2"]);
    let shown = run(&mut stats(&scratch, &[]));
    let why = "not qcow2 but a web page; the download went wrong: get the image again";
    let page =
        format!("refused: base image {}: {why}\n", images.join("web-base-1.qcow2").display());
    assert!(shown.stdout.contains(&page), "{shown}");
    let gone = format!("refused: base image {}: No such file", missing.display());
    assert!(shown.stdout.contains(&gone), "{shown}");
    let json = run(&mut stats(&scratch, &["--json"]));
    let facts: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert!(
        facts["bases"][0]["refused"].as_str().is_some_and(|said| said.ends_with(why)),
        "{json}"
    );
    server.stop();
}

#[apply(test)]
fn a_pipe_has_a_line_for_each_interval_over_a_restart(scratch: Scratch) {
    let mut watch = Watch::start(stats(&scratch, &["--watch", "0.1", "--json"]));
    // It waits for a server that isn't there yet, and says so once.
    let complaint = watch.complaint();
    assert!(complaint.contains("pool.sock") && complaint.ends_with("; trying again\n"));
    let server = Server::of_one_base(&scratch);
    let mut lines = watch.lines();
    assert_eq!(lines.next().expect("a line")["pooled"], 0);
    server.acquire(&server::base(&scratch), &server::vms(&scratch).join("a"));
    assert!(lines.any(|line| line["pooled"] == 1));
    server.stop();
    assert!(watch.complaint().contains("no server at"));
    let server = Server::start(&scratch, server::one_base_args(&scratch));
    assert!(lines.any(|line| line["pooled"] == 0));
    assert_eq!(watch.interrupt(), Some(0));
    server.stop();
}

#[apply(test)]
fn a_pipe_has_blocks_with_rates(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let mut watch = Watch::start(stats(&scratch, &["--watch=0.1"]));
    let out = BufReader::new(watch.0.stdout.take().expect("its output"));
    let mut lines = out.lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line.starts_with("per second")));
    let plain = lines.by_ref().take(8).all(|line| !line.contains('\u{1b}'));
    assert!(plain, "a pipe is no terminal");
    assert_eq!(watch.interrupt(), Some(0));
    server.stop();
}

/// As in `overlay-pool stats --watch | head -1`.
#[apply(test)]
fn a_closed_pipe_ends_it(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let mut watch = Watch::start(stats(&scratch, &["--watch", "0.1", "--json"]));
    drop(watch.0.stdout.take());
    assert_eq!(watch.0.wait().expect("its end").code(), Some(0));
    server.stop();
}

/// Redrawn in place, until Ctrl-C.
#[apply(test)]
#[needs(Script)]
async fn a_terminal_has_a_live_table(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let mut command = overlay_pool(&scratch);
    let program = command.get_program().to_str().expect("a plain path").to_owned();
    let socket = server.socket().display();
    let line = format!("stty rows 24 cols 100; exec {program} stats --watch 0.1 --socket {socket}");
    let log = scratch.join("terminal");
    command = {
        let mut script = Command::new("script");
        script.args(["-qefc", &line]).arg(&log).env("TERM", "xterm").current_dir(&scratch);
        script
    };
    let mut watch = Watch::start(command);
    // Or the pipe fills up.
    let mut out = watch.0.stdout.take().expect("its output");
    let drained = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    let seen = || String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    eventually("a table is drawn again", || seen().matches("per second").count() >= 3).await;
    // To go up is to draw in place.
    assert!(seen().contains("\u{1b}[") && seen().contains("Ctrl-C ends"), "{:?}", seen());
    server.stop();
    eventually("it says that the server is gone", || seen().contains("trying again")).await;
    let server = Server::start(&scratch, server::one_base_args(&scratch));
    let tables = seen().matches("per second").count();
    eventually("tables go on", || seen().matches("per second").count() > tables + 2).await;
    watch.0.stdin.as_mut().expect("its input").write_all(b"\x03").expect("Ctrl-C is pressed");
    assert_eq!(watch.0.wait().expect("its end").code(), Some(0), "{:?}", seen());
    drained.join().expect("a thread").expect("its output");
    server.stop();
}
