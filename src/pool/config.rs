//! What a pool is told, and the size rule.

use std::path::PathBuf;
use std::time::Duration;

use crate::creator::{CreatorKind, Tools};
use crate::image::{OverlayOptions, References};

/// What a pool is told when it is made.
///
/// # Example
///
/// ```
/// use overlay_pool::PoolConfig;
///
/// let config = PoolConfig { max_concurrent_vms: 10, ..PoolConfig::default() };
/// assert_eq!(config.pool_size(), 5);
/// ```
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// How many VMs run at once at most; each shelf holds half as many overlays. Default 10.
    pub max_concurrent_vms: i64,
    /// Where base images are discovered (`*-base-*.qcow2`) when `start` is given no list.
    /// Default `images`.
    pub images_path: PathBuf,
    /// Where the pool makes its directory. It must lie on the filesystem of the targets, or each
    /// acquire is made on demand; `/tmp` is a bad place where it is tmpfs, since the overlays
    /// then compete with the guests for memory. Default `/var/lib/overlay-pool`.
    pub pool_dir: PathBuf,
    /// How overlays are made. Default [`CreatorKind::Native`].
    pub creator: CreatorKind,
    /// Which QEMU programs the other creators run. Default those on `PATH`.
    pub tools: Tools,
    /// What the overlays are like. Default [`Profile::Qemu`](crate::image::Profile::Qemu), of
    /// their base image's size.
    pub overlay: OverlayOptions,
    /// Whether base images may refer to other files. Default [`References::Deny`].
    pub references: References,
    /// How long after an acquire the shelves are filled again. Default 500 ms; 0 is at once.
    pub restock_interval: Duration,
    /// How many overlays are made at once while stocking. Default 8; 0 counts as 1. The native
    /// creator makes one after the other, on a thread of the runtime's for blocking work, so that a
    /// slow disk keeps no other.
    pub max_creations: usize,
    /// How long one creation may take. Default 10 s.
    pub create_timeout: Duration,
    /// After how long without an acquire a base image's overlays are given up. Default never.
    pub shelf_idle: Option<Duration>,
    /// With fewer free bytes on the pool directory's filesystem no overlay is made ahead; those on
    /// demand still are. Default 0.
    pub min_free: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_concurrent_vms: 10,
            images_path: "images".into(),
            pool_dir: "/var/lib/overlay-pool".into(),
            creator: CreatorKind::default(),
            tools: Tools::default(),
            overlay: OverlayOptions::default(),
            references: References::default(),
            restock_interval: Duration::from_millis(500),
            max_creations: 8,
            create_timeout: Duration::from_secs(10),
            shelf_idle: None,
            min_free: 0,
        }
    }
}

impl PoolConfig {
    /// How many overlays a shelf holds: half of the VMs, toward zero (rule S1). At 0 or less
    /// nothing is made ahead (rule S2).
    #[must_use]
    pub fn pool_size(&self) -> i64 {
        self.max_concurrent_vms / 2
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::PoolConfig;

    #[rstest]
    #[case(0, 0)]
    #[case(1, 0)]
    #[case(2, 1)]
    #[case(3, 1)]
    #[case(4, 2)]
    #[case(6, 3)]
    #[case(10, 5)]
    #[case(100, 50)]
    #[case(-1, 0)]
    #[case(-10, -5)]
    #[case(i64::MAX, i64::MAX / 2)]
    fn s1_size_is_half_toward_zero(#[case] max_concurrent_vms: i64, #[case] size: i64) {
        let config = PoolConfig { max_concurrent_vms, ..PoolConfig::default() };
        assert_eq!(config.pool_size(), size);
    }
}
