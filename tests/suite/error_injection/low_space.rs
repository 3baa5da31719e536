//! Little space that is there again in between two looks: strace has one of them not see it.

use crate::harness::faults::strace::{Attached, is_wholly_traced};
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// A pool that had room for one more overlay and none for the next asks again whether there is, though
/// nothing is acquired. If it can't be told how much there is, what is made there tells.
#[apply(test)]
#[needs(Strace, Root)]
fn a_shelf_that_space_was_low_for_is_filled_later(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = Server::command(&scratch);
    command.args(["--max-vms", "4", "--min-free", "1000T", "--restock-interval", "0s"]);
    command.arg("--base").arg(server::base(&scratch)).arg("--targets").arg(server::vms(&scratch));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_that("it listens", |server| Client::connect(server.socket()).is_ok());
    let log = scratch.join("strace.log");
    // Each thread's first look fails: that before the first overlay, and that at the end.
    let once = Attached::to(server.pid(), &log, "fstatfs", "error=EIO:when=1");
    server.await_that("it is traced", |server| is_wholly_traced(server.pid()));
    server.await_ready_overlays(1);
    server.await_that("it looks again", |_| {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|line| line.ends_with(" = 0")).count() > 2
    });
    assert_eq!(server.ready(), 1, "space is low");
    drop(once);
    server.stop();
}
