//! Little space: what is kept free for the guests.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::statvfs;

use super::is_closed;
use crate::harness::cli;
use crate::harness::http::Response;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::MountNamespace];

/// A server whose pool and targets lie on a filesystem of 8 MiB, of which 4 are kept free.
fn command(scratch: &Path, max_vms: &str) -> Command {
    command_on(scratch, max_vms, "size=8m")
}

/// The same with other options for that filesystem, a tmpfs.
fn command_on(scratch: &Path, max_vms: &str, options: &str) -> Command {
    server::one_base(scratch);
    let small = scratch.join("small");
    std::fs::create_dir(&small).expect("a folder");
    let mount = format!("mount -t tmpfs -o {options} tmpfs '{}'", small.display());
    let mut command = cli::overlay_pool_after(&mount, scratch);
    command.arg("serve").arg("--base").arg(server::base(scratch)).arg("--dir").arg(&small);
    command.args(["--max-vms", max_vms, "--min-free", "4M", "--restock-interval", "0s"]);
    command
}

/// The small filesystem, as seen from outside of the server's mount namespace.
fn small(server: &Server, scratch: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid().as_raw_nonzero()));
    root.join(scratch.join("small").strip_prefix("/").expect("an absolute path"))
}

fn is_low(answer: &Response) -> bool {
    answer.status == 503 && answer.problem(503) == "not-ready" && answer.body.contains("low space")
}

#[apply(test)]
fn low_space_stops_restocking_and_nothing_else(scratch: Scratch) {
    let mut server = Server::launch(&scratch, &mut command(&scratch, "4"));
    server.await_ready();
    assert_eq!(server.ready(), 2);
    let filler = small(&server, &scratch).join("filler");
    std::fs::write(&filler, vec![1; 5 << 20]).expect("a large file");
    let ready = server.get("/readyz");
    assert!(is_low(&ready), "{ready:?}");
    for (number, source) in ["pooled", "pooled", "on-demand", "on-demand"].iter().enumerate() {
        let target = scratch.join(format!("small/vm-{number}.qcow2"));
        let answer = server.acquire(&server::base(&scratch), &target);
        assert_eq!((answer.status, answer.json()["source"].as_str()), (200, Some(*source)));
    }
    server.await_that("it says why", |server| server.log().contains("low space"));
    assert_eq!(server.ready(), 0);
    std::fs::remove_file(&filler).expect("it is removed");
    server.await_ready_overlays(2);
    assert_eq!(server.get("/readyz").status, 200);
    server.stop();
}

/// The shelves are larger than the space: what is kept free is kept free.
#[apply(test)]
fn stocking_ends_where_space_gets_low(scratch: Scratch) {
    let mut server = Server::launch(&scratch, &mut command(&scratch, "4000"));
    server.await_that("it has stocked", |server| {
        !is_closed(server.socket()) && is_low(&server.get("/readyz")) && server.ready() > 0
    });
    let free = statvfs(small(&server, &scratch)).expect("its figures");
    let free = free.f_bavail * free.f_frsize;
    // Those that were being made when the line was crossed may be across.
    assert!(free > (4 << 20) - 8 * (64 << 10), "{free}");
    assert!(server.ready() < 2000);
    server.stop();
}

/// Where the filesystem limits them; zero would mean that none fits.
#[apply(test)]
#[case::limited("size=8m,nr_inodes=1000", true)]
#[case::without_a_limit("size=8m,nr_inodes=0", false)]
fn how_many_files_there_may_be_is_told(
    scratch: Scratch,
    #[case] options: &str,
    #[case] is_limited: bool,
) {
    let mut server = Server::launch(&scratch, &mut command_on(&scratch, "4", options));
    server.await_ready();
    let metrics = server.get("/metrics").body;
    let told = metrics.lines().find_map(|line| line.strip_prefix("overlay_pool_free_inodes "));
    let told = told.map(|number| number.parse::<u64>().expect("a number"));
    assert_eq!(told.is_some(), is_limited, "{metrics}");
    assert!(told.is_none_or(|free| (900..1000).contains(&free)), "{told:?}");
    server.stop();
}
