//! Pools to test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{OverlayPool, PoolConfig};

use super::wait::eventually;

/// A pool with this interval doesn't restock while a test looks.
pub(crate) const NOT_DUE: Duration = Duration::from_secs(3600);

/// A configuration whose pool directory lies in the test's folder, and that doesn't restock
/// while the test looks.
pub(crate) fn config(creator: CreatorKind, scratch: &Path, max_concurrent_vms: i64) -> PoolConfig {
    PoolConfig {
        max_concurrent_vms,
        creator,
        images_path: scratch.join("images"),
        pool_dir: scratch.join("pool"),
        restock_interval: NOT_DUE,
        ..PoolConfig::default()
    }
}

pub(crate) fn pool(config: PoolConfig) -> OverlayPool {
    OverlayPool::new(config).expect("a pool is made")
}

/// A started pool of the creator with one base image.
pub(crate) async fn started(config: PoolConfig, base: &Path) -> OverlayPool {
    let pool = pool(config);
    pool.start(Some(vec![base.into()])).await.expect("the pool starts");
    pool
}

/// How many overlays are ready, over all shelves.
pub(crate) fn ready(pool: &OverlayPool) -> usize {
    pool.stats().ready.values().sum()
}

pub(crate) async fn eventually_ready(pool: &OverlayPool, count: usize) {
    eventually(&format!("{count} overlays are ready"), || ready(pool) == count).await;
}

/// The ready overlays' files.
pub(crate) fn ready_files(pool: &OverlayPool) -> Vec<PathBuf> {
    let directory = pool.directory().expect("a pool directory");
    let entries = directory.read_dir().expect("the pool directory");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// The processes that this one started and that still run, by PID.
pub(crate) fn children() -> BTreeMap<i32, String> {
    children_of(std::process::id())
}

/// The processes that another one started and that still run, by PID.
pub(crate) fn children_of(parent: u32) -> BTreeMap<i32, String> {
    let output = Command::new("ps")
        .args(["-o", "pid=,args=", "--ppid", &parent.to_string()])
        .output()
        .expect("ps runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
    let children = lines.filter_map(|(pid, args)| Some((pid.parse().ok()?, args.to_owned())));
    children.filter(|(_, args)| !args.starts_with("ps ")).collect()
}

/// The storage daemon that this process started.
pub(crate) fn daemon() -> Option<rustix::process::Pid> {
    let is_daemon = |(_, args): &(i32, String)| args.contains("qemu-storage-daemon");
    let (pid, _) =
        children().into_iter().filter(|(_, args)| !args.contains("defunct")).find(is_daemon)?;
    rustix::process::Pid::from_raw(pid)
}

/// Nothing is left of a pool: no directory, no process.
pub(crate) async fn assert_nothing_left(scratch: &Path) {
    assert!(!scratch.join("pool").exists(), "the pool directory is left");
    eventually("every child process is gone", || children().is_empty()).await;
}
