//! The figures, as `--json` prints them.

use std::collections::BTreeMap;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, Format};
use serde::Serialize;

use super::check::Checked;
use super::machine::Machine;
use super::measure::{Beside, Measured};
use super::samples::Samples;
use super::scale::{SMALL, Scale};
use super::target::Target;

/// All figures of a run. Those that something was divided by were measured in turns with it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) base: Base,
    pub(super) floor: FloorFigures,
    /// None where the machine lacks it.
    pub(super) qemu_img: Option<QemuImgFigures>,
    pub(super) creators: BTreeMap<CreatorKind, CreatorFigures>,
    /// The creators that this machine lacks, and why.
    pub(super) missing: BTreeMap<CreatorKind, String>,
    pub(super) large: Option<LargeFigures>,
    pub(super) checked: Checked,
    pub(super) targets: Vec<Target>,
}

#[derive(Debug, Serialize)]
pub(super) struct Base {
    pub(super) format: Format,
    pub(super) virtual_size: u64,
    /// Whether it was made for this run.
    pub(super) made: bool,
}

impl Base {
    pub(super) fn new(base: &BaseRef, virtual_size: u64, made: bool) -> Self {
        Self { format: base.format, virtual_size, made }
    }
}

/// Bare system calls and bare QMP commands, p50.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "these are the names that are promised")]
pub(super) struct FloorFigures {
    pub(super) rename_us: f64,
    pub(super) create_us: f64,
    /// The five commands that make an overlay; none where the storage daemon was not measured.
    pub(super) qmp_us: Option<f64>,
}

/// What was measured in turns with a creator, p50.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "as those of the floor")]
pub(super) struct BesideFigures {
    pub(super) rename_us: f64,
    pub(super) create_us: f64,
    pub(super) qmp_us: Option<f64>,
    pub(super) qemu_img_us: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct QemuImgFigures {
    pub(super) create_us: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct PerSecond {
    #[serde(rename = "1")]
    pub(super) from_one: f64,
    #[serde(rename = "64")]
    pub(super) from_many: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct CreatorFigures {
    /// How many overlays were stocked, and how many were made on demand.
    pub(super) count: usize,
    pub(super) stock_ms: f64,
    pub(super) pooled_us: Percentiles,
    pub(super) on_demand_us: Percentiles,
    pub(super) acquires_per_s: PerSecond,
    pub(super) restock_ms: f64,
    /// Of one overlay.
    pub(super) disk_bytes: u64,
    /// Resident, of this process and its children, with the shelf full.
    pub(super) memory_bytes: u64,
    pub(super) beside: BesideFigures,
    pub(super) ratios: Ratios,
}

/// p50 by p50, both measured in turns.
#[derive(Debug, Serialize)]
pub(super) struct Ratios {
    pub(super) pooled_to_rename: f64,
    pub(super) on_demand_to_create: f64,
    pub(super) on_demand_to_qmp: Option<f64>,
    pub(super) on_demand_to_qemu_img: Option<f64>,
    pub(super) qemu_img_to_pooled: Option<f64>,
    pub(super) qemu_img_to_on_demand: Option<f64>,
    /// Stocking 1,000 overlays at this rate, in `qemu-img create`s.
    pub(super) stock_1000_to_qemu_img: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct LargeFigures {
    pub(super) ready: usize,
    pub(super) stock_ms: f64,
    pub(super) pooled_us: Percentiles,
    /// Of a pool with this many ready overlays.
    pub(super) small_ready: usize,
    pub(super) small_pooled_us: Percentiles,
    pub(super) pooled_to_small: f64,
    pub(super) memory_bytes_per_overlay: f64,
}

impl Report {
    /// Puts together what was measured.
    pub(super) fn new(
        machine: Machine,
        base: Base,
        measured: &BTreeMap<CreatorKind, Measured>,
        missing: BTreeMap<CreatorKind, String>,
        scale: Option<&Scale>,
    ) -> Self {
        let mut qemu_img = Samples::default();
        let mut checked = scale.map(|scale| scale.checked).unwrap_or_default();
        for measured in measured.values() {
            qemu_img.extend(&measured.beside.qemu_img);
            checked += measured.checked;
        }
        let creators: BTreeMap<_, _> =
            measured.iter().map(|(kind, measured)| (*kind, measured.figures())).collect();
        let large = scale.map(Scale::figures);
        Self {
            machine,
            base,
            floor: floor(&creators),
            qemu_img: qemu_img.percentile(50).map(|p50| QemuImgFigures { create_us: us(p50) }),
            targets: Target::all(&creators, large.as_ref()),
            creators,
            missing,
            large,
            checked,
        }
    }
}

/// The native creator's, or the first's where others were asked for.
fn floor(creators: &BTreeMap<CreatorKind, CreatorFigures>) -> FloorFigures {
    let Some(first) = creators.values().next() else { return FloorFigures::default() };
    FloorFigures {
        rename_us: first.beside.rename_us,
        create_us: first.beside.create_us,
        qmp_us: creators.values().find_map(|creator| creator.beside.qmp_us),
    }
}

impl Beside {
    fn figures(&self) -> BesideFigures {
        let p50 = |samples: &Samples| samples.percentile(50).map(us);
        BesideFigures {
            rename_us: p50(&self.rename).unwrap_or_default(),
            create_us: p50(&self.create).unwrap_or_default(),
            qmp_us: p50(&self.qmp),
            qemu_img_us: p50(&self.qemu_img),
        }
    }
}

impl Measured {
    fn figures(&self) -> CreatorFigures {
        CreatorFigures {
            count: self.count,
            stock_ms: ms(self.stock),
            pooled_us: Percentiles::of(&self.pooled),
            on_demand_us: Percentiles::of(&self.on_demand),
            acquires_per_s: PerSecond {
                from_one: self.pooled.per_second().round(),
                from_many: self.per_second_from_many.round(),
            },
            restock_ms: ms(self.restock),
            disk_bytes: self.disk,
            memory_bytes: self.memory,
            beside: self.beside.figures(),
            ratios: self.ratios(),
        }
    }

    fn ratios(&self) -> Ratios {
        let median = |samples: &Samples| samples.percentile(50);
        let (pooled, on_demand) = (median(&self.pooled), median(&self.on_demand));
        let qemu_img = median(&self.beside.qemu_img);
        let thousand =
            self.stock.mul_f64(1000.0 / f64::from(u32::try_from(self.count).unwrap_or(u32::MAX)));
        Ratios {
            pooled_to_rename: ratio(pooled, median(&self.beside.rename)).unwrap_or_default(),
            on_demand_to_create: ratio(on_demand, median(&self.beside.create)).unwrap_or_default(),
            on_demand_to_qmp: ratio(on_demand, median(&self.beside.qmp)),
            on_demand_to_qemu_img: ratio(on_demand, qemu_img),
            qemu_img_to_pooled: ratio(qemu_img, pooled),
            qemu_img_to_on_demand: ratio(qemu_img, on_demand),
            stock_1000_to_qemu_img: ratio(Some(thousand), qemu_img),
        }
    }
}

impl Scale {
    fn figures(&self) -> LargeFigures {
        let (large, small) = (self.large.percentile(50), self.small.percentile(50));
        let [memory, ready] = [self.memory, self.ready as u64]
            .map(|number| f64::from(u32::try_from(number).unwrap_or(u32::MAX)));
        LargeFigures {
            ready: self.ready,
            stock_ms: ms(self.stock),
            pooled_us: Percentiles::of(&self.large),
            small_ready: SMALL,
            small_pooled_us: Percentiles::of(&self.small),
            pooled_to_small: ratio(large, small).unwrap_or_default(),
            memory_bytes_per_overlay: rounded(memory / ready),
        }
    }
}

impl Percentiles {
    pub(super) fn of(samples: &Samples) -> Self {
        let [p50, p99] = [50, 99].map(|p| us(samples.percentile(p).unwrap_or_default()));
        Self { p50, p99 }
    }
}

pub(super) fn ratio(one: Option<Duration>, by: Option<Duration>) -> Option<f64> {
    let (one, by) = (one?, by.filter(|by| !by.is_zero())?);
    Some(rounded(one.as_secs_f64() / by.as_secs_f64()))
}

pub(super) fn us(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e6)
}

fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

/// To three decimals.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
