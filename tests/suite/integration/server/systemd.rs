//! The units, and systemd's own programs.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cli;
use crate::harness::faults::strace;
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};
use crate::harness::systemd::{forbidden_by, traced_server, units};

const NEEDS: &[Need] = &[Need::Systemd];

#[apply(test)]
#[case::alone(&["overlay-pool.service"])]
#[case::with_vms(&["overlay-pool.service", "vms.conf"])]
fn the_units_are_sound(scratch: Scratch, #[case] service: &[&str]) {
    let read = |name: &&str| std::fs::read_to_string(units().join(name)).expect("a unit");
    for files in [service, &["overlay-pool.socket"]] {
        let (name, unit) = (files[0], files.iter().map(read).collect::<String>());
        // Where the program is installed is another question.
        let unit = unit.replace("/usr/bin/overlay-pool", env!("CARGO_BIN_EXE_overlay-pool"));
        std::fs::write(scratch.join(name), unit).expect("a unit");
    }
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).current_dir(&*scratch);
        command
            .args(["overlay-pool.service", "overlay-pool.socket"].map(|unit| scratch.join(unit)));
        let output = command.output().expect("systemd-analyze runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(verify(), (true, String::new()));
    // That it would say so:
    let service = scratch.join("overlay-pool.service");
    let spoilt = std::fs::read_to_string(&service).expect("a unit");
    std::fs::write(&service, spoilt.replace("ProtectSystem=", "ProtectSistem=")).expect("spoilt");
    assert!(verify().1.contains("ProtectSistem"));
}

/// What the unit runs is understood, and so is the file that it names.
#[apply(test)]
fn the_unit_s_command_is_understood(scratch: Scratch) {
    let unit = std::fs::read_to_string(units().join("overlay-pool.service")).expect("a unit");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    // This machine needn't have the group.
    let line = line.replace("--socket-group overlay-pool", "--socket-group 0");
    let config = units().join("overlay-pool.toml");
    let line = line.replace("/etc/overlay-pool.toml", config.to_str().expect("a plain path"));
    let said = cli::answer(&scratch, line.split_whitespace().skip(1).chain(["--images", "none"]));
    assert!(said.stderr.contains("directory of base images none"), "{said}");
}

/// What a server asks of the kernel is what its unit lets it ask: systemd kills it for anything else.
#[apply(test)]
#[needs(Strace)]
async fn the_unit_forbids_nothing_that_the_server_does(scratch: Scratch) {
    server::one_base(&scratch);
    let summary = scratch.join("calls");
    let mut command = traced_server(&scratch, &summary);
    command.args(server::one_base_args(&scratch));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    assert_eq!(server.acquire(&base, &vms.join("pooled")).status, 200);
    let larger = json!({
        "base": base, "format": "qcow2", "target": vms.join("larger"), "virtual_size": 1 << 30, "id": "x",
    });
    assert_eq!(server.post("/v1/acquire", &larger).status, 200);
    let removed = server.client().ask("DELETE", "/v1/disks/x", None).expect("an answer");
    assert_eq!(removed.status, 204);
    server.signal(Signal::HUP);
    server.await_that("it looks again", |server| server.log().contains("rescan"));
    server.stop();

    let used = strace::summarized(&summary).await;
    assert!(used.contains("openat2") && used.contains("renameat2"), "{used:?}");
    assert_eq!(forbidden_by(&["overlay-pool.service"], &used), [""; 0]);
}

#[apply(test)]
fn the_user_is_well_described() {
    let mut command = Command::new("systemd-sysusers");
    command.arg("--dry-run").arg(units().join("overlay-pool.sysusers"));
    let output = command.output().expect("systemd-sysusers runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The first client starts the server, and has its answer of a server that is ready.
#[apply(test)]
fn l1_who_starts_the_server_needs_not_come_again(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = activated(&scratch);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_that("somebody listens", |server| server.log().contains("Listening on"));
    let target = server::vms(&scratch).join("vm.qcow2");
    let answer = server.acquire(&server::base(&scratch), &target);
    assert_eq!(answer.status, 200, "{answer:?}");
    server.stop();
}

/// A server whose socket somebody else listens on, until a client comes.
fn activated(scratch: &Path) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(server::socket(scratch));
    for name in ["OVERLAY_POOL_DIR", "OVERLAY_POOL_LOG", "OVERLAY_POOL_SOCKET"] {
        command.args(["--setenv", name]);
    }
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    command
}

/// The first client starts the server, which takes the socket as it is and leaves it so.
#[apply(test)]
fn a_passed_socket_is_taken_and_left(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = activated(&scratch);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_that("somebody listens", |server| server.log().contains("Listening on"));
    assert!(!server.log().contains("start"), "nobody has asked yet");
    server.await_ready();
    let target = server::vms(&scratch).join("vm.qcow2");
    assert_eq!(server.acquire(&server::base(&scratch), &target).json()["source"], "pooled");
    server.stop();
    assert!(server::socket(&scratch).exists(), "it isn't the server's to remove");
    assert!(Client::connect(&server::socket(&scratch)).is_err());
    assert!(target.exists() && !scratch.join("pool").exists());
}
