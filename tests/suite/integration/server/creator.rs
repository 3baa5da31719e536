//! A creator that hangs.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{figure, names, start};
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

#[rstest]
#[case::by_creation(&["--create-timeout", "3s"], "create-failed")]
#[case::by_request(&["--request-timeout", "500ms"], "timed-out")]
#[test_attr(apply(case))]
fn c2_a_hanging_creator_is_not_waited_for(
    scratch: Scratch,
    #[case] limit: &[&str],
    #[case] error: &str,
) {
    // Nothing but the request looks at the daemon.
    let mut args = vec!["--creator", "storage-daemon", "--restock-interval", "1h"];
    args.extend(limit);
    let mut server = start(&scratch, &args);
    assert_eq!(server.ready(), 2);
    kill_process(daemon(&server), Signal::STOP).expect("it is stopped");
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    // Ready ones never notice; of another size none is ready.
    assert_eq!(server.acquire(&base, &vms.join("1.qcow2")).json()["source"], "pooled");
    let request = json!({ "base": base, "target": vms.join("2.qcow2"), "virtual_size": 4 << 20 });
    let answer = server.post("/v1/acquire", &request);
    assert_eq!(answer.problem(504), error, "{answer:?}");
    assert_eq!(names(&vms), ["1.qcow2"]);
    if error == "create-failed" {
        assert_eq!(figure(&server.get("/v1/stats").json(), "failed"), 1);
        server.await_that("it is replaced", |server| {
            server.post("/v1/acquire", &request).status == 200
        });
    }
    server.stop();
}
