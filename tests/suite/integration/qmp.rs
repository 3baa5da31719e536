//! What the pool says to a real storage daemon, and what it leaves in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::{CreatorKind, Tools};
use overlay_pool::{OverlayPool, PoolConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::pools::{assert_nothing_left, children, config, pool};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

const NEEDS: &[Need] = &[Need::StorageDaemon, Need::Python];

/// A started pool whose daemon is behind `fixtures/tools/qmp-proxy`.
async fn behind_proxy(scratch: &Path) -> OverlayPool {
    let proxy = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tools/qmp-proxy");
    let log = scratch.join("qmp.log");
    let script = format!("exec env QMP_PROXY_LOG='{}' '{}' \"$@\"", log.display(), proxy.display());
    let storage_daemon = crate::harness::fake_tool::script(&scratch.join("daemon"), &script);
    let pool = pool(PoolConfig {
        tools: Tools { storage_daemon, ..Tools::default() },
        ..config(CreatorKind::StorageDaemon, scratch, 0)
    });
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    Image::new(1 << 20).write(&scratch.join("base.qcow2"));
    pool
}

fn log(scratch: &Path) -> String {
    std::fs::read_to_string(scratch.join("qmp.log")).expect("the proxy's log")
}

/// The jobs and nodes that the daemon still has.
async fn left_in_daemon(scratch: &Path) -> String {
    let (pid, _) = children().into_iter().next().expect("the proxy runs");
    let before = log(scratch).matches("left ").count();
    kill_process(Pid::from_raw(pid).expect("a PID"), Signal::USR1).expect("it is asked");
    eventually("the proxy answers", || log(scratch).matches("left ").count() > before).await;
    let log = log(scratch);
    log.lines().rfind(|line| line.starts_with("left ")).expect("an answer").to_owned()
}

const NOTHING: &str = r#"left {"query-jobs": [], "query-named-block-nodes": []}"#;

#[apply(test)]
async fn exchange(scratch: Scratch) {
    let pool = behind_proxy(&scratch).await;
    pool.acquire(scratch.join("base.qcow2"), scratch.join("vm.qcow2")).await.expect("an overlay");
    assert_eq!(left_in_daemon(&scratch).await, NOTHING);
    let filters = [
        (scratch.to_str().expect("a plain path"), "[DIR]"),
        (r#""(seconds|microseconds)": \d+"#, r#""$1": [TIME]"#),
        (r"/proc/\d+/fd/\d+", "/proc/[PID]/fd/[FD]"),
        (r#""version": \{"qemu".*?\}, "package": ".*?"\}"#, r#""version": [VERSION]"#),
    ];
    // Answers and events may come before or after the next command: only the order of each counts.
    let log = log(&scratch);
    let (said, heard): (Vec<_>, Vec<_>) = log.lines().partition(|line| line.starts_with("> "));
    let heard = heard.iter().filter(|line| !line.contains("\"event\"")).copied();
    let exchange = said.iter().copied().chain(heard).collect::<Vec<_>>().join("\n");
    insta::with_settings!({ filters => filters }, { insta::assert_snapshot!(exchange) });
    pool.stop().await;
    assert_nothing_left(&scratch).await;
}

#[apply(test)]
async fn a12_cancelled_acquires_leave_neither_job_nor_node(scratch: Scratch) {
    let pool = Arc::new(behind_proxy(&scratch).await);
    let mut cancelled = 0;
    for number in 0..200_u64 {
        let (base, target) =
            (scratch.join("base.qcow2"), scratch.join(format!("vm-{number}.qcow2")));
        let patience = Duration::from_micros(number * 71 % 5000);
        let acquired = tokio::time::timeout(patience, pool.acquire(base, target)).await;
        cancelled += usize::from(acquired.is_err());
    }
    assert!(cancelled > 0, "none was cancelled");
    pool.acquire(scratch.join("base.qcow2"), scratch.join("last.qcow2")).await.expect("an overlay");
    for attempt in 0.. {
        let left = left_in_daemon(&scratch).await;
        if left == NOTHING {
            break;
        }
        assert!(attempt < 500, "{left}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[apply(test)]
async fn a7_failed_creation_leaves_neither_job_nor_node(scratch: Scratch) {
    let pool = behind_proxy(&scratch).await;
    // 200 bytes of file size limit are too few for any overlay.
    let (pid, _) = children().into_iter().next().expect("the proxy runs");
    let daemon = crate::harness::qemu::run("pgrep", ["-P", &pid.to_string()]);
    crate::harness::qemu::run("prlimit", ["--pid", daemon.trim(), "--fsize=200"]);
    let target = scratch.join("vm.qcow2");
    let error = pool.acquire(scratch.join("base.qcow2"), &target).await.expect_err("too large");
    assert!(error.to_string().contains("qemu-storage-daemon: "), "{error}");
    assert!(!target.exists());
    let asked = log(&scratch).lines().filter(|line| line.contains("\"blockdev-create\"")).count();
    assert_eq!(asked, 1, "what a sound daemon refuses isn't asked for again");
    assert_eq!(left_in_daemon(&scratch).await, NOTHING);
}
