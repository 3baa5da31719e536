//! `serve`: what it is told. How it serves is judged in `integration::server`.

use std::path::Path;

use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

#[apply(test)]
#[case::no_base("no_base", &[])]
#[case::no_images("no_images", &["--images", "missing"])]
#[case::no_targets("no_targets", &["--base", "base.qcow2", "--targets", "missing"])]
#[case::no_group("no_group", &["--base", "base.qcow2", "--socket-group", "no such group"])]
#[case::bad_time("bad_time", &["--base", "base.qcow2", "--drain-timeout", "soon"])]
#[case::bad_size("bad_size", &["--base", "base.qcow2", "--min-free", "much"])]
#[case::no_idle("no_idle", &["--base", "base.qcow2", "--shelf-idle", "0s"])]
#[case::no_clients("no_clients", &["--base", "base.qcow2", "--max-connections", "0"])]
#[case::long_socket("long_socket", &["--base", "base.qcow2", "--socket", LONG])]
fn it_says_what_it_cannot_do(stage: Stage, #[case] name: &str, #[case] args: &[&str]) {
    let socket = stage.join("pool.sock");
    let mut command = overlay_pool(&stage);
    let error = run(command.arg("serve").args(args).env("OVERLAY_POOL_SOCKET", &socket));
    assert_eq!(error.stderr.lines().count(), 1, "{error}");
    assert_answer!(stage, format!("serve_{name}"), error);
    assert!(!socket.exists());
}

/// Longer than an address of a socket may be.
const LONG: &str = concat!(
    "sub/../sub/../sub/../sub/../sub/../sub/../sub/../sub/../sub/../sub/../sub/../",
    "sub/../sub/../sub/../sub/../sub/../pool.sock"
);

#[apply(test)]
#[case::unknown_key("unknown_key", "max-vms = 4\n\nmax_vms = 4\n")]
#[case::strange_key("strange_key", "colour = 'blue'\n")]
#[case::wrong_type("wrong_type", "targets = [\n  \"run\",\n  7,\n]\n")]
#[case::bad_size("bad_size", "max-vms = 4\nmin-free = \"much\"\n")]
#[case::bad_time("bad_time", "drain-timeout = \"soon\"\n")]
#[case::no_time("no_time", "request-timeout = \"0s\"\n")]
#[case::no_creations("no_creations", "max-creations = 0\n")]
#[case::bad_creator("bad_creator", "creator = \"qemu\"\n")]
#[case::too_large("too_large", "max-vms = 99999999999999999999\n")]
#[case::syntax("syntax", "max-vms = 4\nimages = /var/lib\n")]
#[case::twice("twice", "max-vms = 4\nmax-vms = 6\n")]
#[case::not_text("not_text", "\u{1b}[2J = 1\n")]
fn a_bad_file_is_named_with_line_and_key(stage: Stage, #[case] name: &str, #[case] text: &str) {
    std::fs::write(stage.join("serve.toml"), text).expect("a file");
    let error = answer(&stage, ["serve", "--config", "serve.toml", "--base", "base.qcow2"]);
    assert_eq!((error.code, error.stderr.lines().count()), (Some(2), 1), "{error}");
    assert_answer!(stage, format!("serve_config_{name}"), error);
}

#[apply(test)]
fn a_missing_file_is_a_failure(stage: Stage) {
    let error = answer(&stage, ["serve", "--config", "missing.toml"]);
    assert_answer!(stage, "serve_config_missing", error);
}

fn target(server: &Server) -> u64 {
    server.get("/v1/bases").json()[0]["target"].as_u64().expect("a number")
}

/// Every key is taken, and the command line goes before the file.
#[apply(test)]
fn the_command_line_goes_before_the_file(scratch: Scratch) {
    server::one_base(&scratch);
    let text = |path: &Path| format!("{:?}", path.to_str().expect("a plain path"));
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    let config = scratch.join("serve.toml");
    let keys = format!(
        "base = [{}]\nraw-base = []\ntargets = [{}]\nmax-vms = 8\nsocket = {}\ncreator = \"native\"\n\
         dir = {}\nprofile = \"portable\"\nallow-references = true\nmin-free = \"1k\"\n\
         restock-interval = \"1s\"\nshelf-idle = \"1h 30m\"\nmax-creations = 2\n\
         create-timeout = \"5s\"\nmax-connections = 10\nmax-connections-per-client = 5\n\
         request-timeout = \"10s\"\nclient-timeout = \"10s\"\ndrain-timeout = \"1s\"\n",
        text(&base),
        text(&vms),
        text(&server::socket(&scratch)),
        text(&scratch.join("place")),
    );
    std::fs::write(&config, keys).expect("a file");
    let mut command = Server::command(&scratch);
    let mut server = Server::launch(&scratch, command.arg("--config").arg(&config));
    server.await_ready();
    assert_eq!(target(&server), 4);
    assert!(scratch.join("place").exists() && !scratch.join("pool").exists());
    server.stop();
    let mut command = Server::command(&scratch);
    command.arg("--config").arg(&config).args(["--max-vms", "2"]);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    assert_eq!(target(&server), 1);
    server.stop();
}
