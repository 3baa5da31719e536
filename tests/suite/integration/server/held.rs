//! A base image that changes under overlays that callers hold: an event and a metric say so.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

fn changes(server: &Server, change: &str) -> u64 {
    let series = format!("overlay_pool_held_bases_changed_total{{change=\"{change}\"}} ");
    let text = server.get("/metrics").body;
    let found = text.lines().find_map(|line| line.strip_prefix(&series));
    found.unwrap_or_else(|| panic!("no {series}in\n{text}")).parse().expect("a number")
}

#[apply(test)]
fn a10_a_base_that_changes_under_held_overlays_is_told(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let base = server::base(&scratch);
    let target = server::vms(&scratch).join("vm.qcow2");
    assert_eq!(server.acquire(&base, &target).status, 200);
    assert_eq!((changes(&server, "replaced"), changes(&server, "maybe")), (0, 0));

    let mut size = 1;
    server.await_that("it is replaced", |server| {
        size += 1;
        Image::new(size << 20).write(&base);
        changes(server, "replaced") > 0
    });
    let mut mode = 0;
    server.await_that("it may have changed", |server| {
        mode ^= 0o044;
        std::fs::set_permissions(&base, Permissions::from_mode(0o600 | mode)).expect("a mode");
        changes(server, "maybe") > 0
    });
    let log = server.log();
    for change in ["replaced", "may have changed"] {
        let said = |line: &str| line.contains("handed over") && line.contains(change);
        assert!(log.lines().any(said), "{log}");
    }
    server.stop();
}

/// The next server knows of the disks that this one leased.
#[apply(test)]
fn a10_a_base_that_changes_under_a_lease_is_told_after_a_restart(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let (base, target) = (server::base(&scratch), server::vms(&scratch).join("vm.qcow2"));
    let wanted = serde_json::json!({ "base": base, "target": target, "id": "vm" });
    assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    server.stop();
    let mut server = Server::start(&scratch, server::one_base_args(&scratch));
    let mut size = 1;
    server.await_that("it is replaced", |server| {
        size += 1;
        Image::new(size << 20).write(&base);
        changes(server, "replaced") > 0
    });
    server.stop();
}
