//! A creator that hangs.

use rustix::process::{Pid, Signal, kill_process};

use super::{hanging_tools, names, start};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::StorageDaemon];

/// The storage daemon of a server.
fn daemon(server: &Server) -> Pid {
    let pid = server.pid().as_raw_nonzero();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let children = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children = children.collect::<Vec<_>>().join(" ");
    let mut children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.find_map(Pid::from_raw).expect("a storage daemon")
}

#[apply(test)]
fn c2_a_stopped_daemon_is_replaced(scratch: Scratch) {
    // Nothing but the requests looks at the daemon.
    let more = ["--creator", "storage-daemon", "--restock-interval", "1h"];
    let mut server = start(&scratch, &more);
    server.await_ready_overlays(2);
    kill_process(daemon(&server), Signal::STOP).expect("it is stopped");
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    for (number, source) in ["pooled", "pooled", "on-demand"].into_iter().enumerate() {
        let answer = server.acquire(&base, &vms.join(format!("{number}.qcow2")));
        assert_eq!(answer.json()["source"], source, "{answer:?}");
    }
    server.stop();
}

/// And no other is in its place.
#[apply(test)]
#[case::by_creation(&["--create-timeout", "500ms"], "create-failed")]
#[case::by_request(&["--request-timeout", "500ms"], "timed-out")]
fn c2_a_hanging_creator_is_not_waited_for(
    scratch: Scratch,
    #[case] limit: &[&str],
    #[case] error: &str,
) {
    server::one_base(&scratch);
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    let mut command = Server::command(&scratch);
    command.arg("--base").arg(&base).arg("--targets").arg(&vms).args(limit);
    command.args(["--creator", "qemu-img", "--max-vms", "0"]);
    command.env("PATH", hanging_tools(&scratch));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let answer = server.acquire(&base, &vms.join("vm.qcow2"));
    assert_eq!(answer.problem(504), error, "{answer:?}");
    assert_eq!(names(&vms), [] as [&str; 0]);
    server.stop();
    assert_eq!(names(&vms), [] as [&str; 0]);
}
