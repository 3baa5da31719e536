//! Pools to test, one kind for each creator.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{OverlayPool, PoolConfig};

/// A pool that doesn't restock while a test looks.
pub(crate) const NOT_DUE: Duration = Duration::from_secs(3600);

/// A configuration whose pool directory lies in the test's folder.
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

/// What lies in the pool directories below `scratch`.
pub(crate) fn pool_files(scratch: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
        entries.map(|entry| entry.expect("a directory entry").path()).collect()
    };
    entries(&scratch.join("pool")).iter().flat_map(|directory| entries(directory)).collect()
}
