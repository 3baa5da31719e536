//! What the project promises, beside what was measured.
//!
//! The promises are for a disk's filesystem. On tmpfs, where a rename takes 6 µs, the `statx` of
//! the base image alone is a third of that.

use std::collections::BTreeMap;

use indicatif::HumanCount;
use overlay_pool::creator::CreatorKind;
use serde::Serialize;

use super::report::{CreatorFigures, LargeFigures};

/// A promise, and whether this run kept it.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) at_least: Option<f64>,
    pub(super) at_most: Option<f64>,
    pub(super) measured: f64,
    pub(super) met: bool,
}

impl Target {
    /// Those that the figures say anything about.
    pub(super) fn all(
        creators: &BTreeMap<CreatorKind, CreatorFigures>,
        large: Option<&LargeFigures>,
    ) -> Vec<Self> {
        let native = creators.get(&CreatorKind::Native).map(|figures| &figures.ratios);
        let daemon = creators.get(&CreatorKind::StorageDaemon).map(|figures| &figures.ratios);
        let creators = [
            native.map(|is| {
                Self::at_most("pooled acquire, by a bare renameat2", is.pooled_to_rename, 1.5)
            }),
            native.map(|is| {
                let what = "on-demand acquire, by a bare create and its writes";
                Self::at_most(what, is.on_demand_to_create, 1.5)
            }),
            native.and_then(|is| is.qemu_img_to_pooled).map(|measured| {
                Self::at_least("qemu-img create, by a pooled acquire", measured, 100.0)
            }),
            native.and_then(|is| is.stock_1000_to_qemu_img).map(|measured| {
                Self::at_most("stocking 1,000 overlays, by a qemu-img create", measured, 20.0)
            }),
            daemon.and_then(|is| is.on_demand_to_qmp).map(|measured| {
                let what = "storage-daemon on demand, by the same QMP commands sent bare";
                Self::at_most(what, measured, 1.2)
            }),
        ];
        let large = large.map(|large| {
            let what = format!(
                "pooled acquire with {} ready overlays, by one with {}",
                HumanCount(large.ready as u64),
                HumanCount(large.small_ready as u64),
            );
            [
                Self::at_most(what, large.pooled_to_small, 1.5),
                Self {
                    unit: "bytes",
                    ..Self::at_most(
                        "memory of a ready overlay",
                        large.memory_bytes_per_overlay,
                        300.0,
                    )
                },
            ]
        });
        creators.into_iter().flatten().chain(large.into_iter().flatten()).collect()
    }

    pub(super) fn at_most(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        let met = measured <= limit;
        Self { what: what.into(), unit: "×", at_least: None, at_most: Some(limit), measured, met }
    }

    pub(super) fn at_least(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        let met = measured >= limit;
        Self { what: what.into(), unit: "×", at_least: Some(limit), at_most: None, measured, met }
    }
}
