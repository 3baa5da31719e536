//! The figures, as a person reads them.

use std::fmt::{self, Display};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{HumanCount, HumanFloatCount};
use overlay_pool::creator::CreatorKind;

use super::check::Checked;
use super::machine::Machine;
use super::measure::TASKS;
use super::report::{Base, CreatorFigures, Report};
use super::target::Target;
use crate::commands::text::escaped;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}", machine_line(&self.machine))?;
        writeln!(f, "base     {}", base_line(&self.base))?;
        for (kind, reason) in &self.missing {
            writeln!(f, "missing  {}: {}", kind.as_str(), escaped(reason))?;
        }
        writeln!(f, "\n{}", self.creators_table().trim_fmt())?;
        writeln!(f, "\nWhat stands under a figure was measured in turns with it; × is by that.")?;
        let targets = targets_table("target, on a disk's filesystem", &self.targets);
        writeln!(f, "\n{}\n", targets.trim_fmt())?;
        write!(f, "checked  {}", checked_line(&self.checked))
    }
}

impl Report {
    fn creators_table(&self) -> Table {
        let names = [
            "overlays",
            "stock, ms",
            "restock, ms",
            "pooled p50, µs",
            "  bare renameat2",
            "pooled p99, µs",
            "on demand p50, µs",
            "  bare create + writes",
            "  bare QMP commands",
            "  qemu-img create",
            "on demand p99, µs",
            "acquires/s, 1 task",
            &format!("acquires/s, {TASKS} tasks"),
            "disk of an overlay, KiB",
            "memory, MiB",
        ]
        .map(str::to_owned);
        let mut columns = vec![names];
        columns.extend(self.creators.iter().map(|(kind, figures)| column(*kind, figures)));
        let header = self.creators.keys().map(|kind| kind.as_str());
        let rows = (0..columns[0].len()).map(|row| columns.iter().map(move |column| &column[row]));

        let mut table = plain();
        table.set_header([""].into_iter().chain(header));
        table.add_rows(rows);
        align_right(&mut table, 1..=self.creators.len());
        table
    }
}

pub(super) fn machine_line(machine: &Machine) -> String {
    let qemu =
        machine.qemu.as_deref().map_or("no QEMU".to_owned(), |v| format!("QEMU {}", escaped(v)));
    format!("{} cores, Linux {}, {}, {qemu}", machine.cores, machine.kernel, machine.filesystem)
}

pub(super) fn base_line(base: &Base) -> String {
    let size = HumanCount(base.virtual_size >> 20);
    let origin = if base.made { "made for this run" } else { "given" };
    format!("{}, {size} MiB, {origin}", base.format)
}

pub(super) fn checked_line(checked: &Checked) -> String {
    let overlays = HumanCount(checked.overlays as u64);
    match checked.with_qemu_img {
        0 => format!("all {overlays} overlays are sound"),
        some => format!("all {overlays} overlays are sound, {some} by qemu-img check too"),
    }
}

/// What was promised under a condition, beside what was measured.
pub(super) fn targets_table(condition: &str, targets: &[Target]) -> Table {
    let mut table = plain();
    table.set_header([condition, "wanted", "measured", ""]);
    for target in targets {
        let (sign, limit) = match (target.at_most, target.at_least) {
            (Some(limit), _) => ("≤", limit),
            (None, limit) => ("≥", limit.unwrap_or_default()),
        };
        let unit = target.unit;
        table.add_row([
            target.what.clone(),
            format!("{sign} {limit} {unit}"),
            format!("{:.2} {unit}", target.measured),
            if target.met { "met" } else { "missed" }.to_owned(),
        ]);
    }
    align_right(&mut table, 1..=2);
    table
}

/// A creator's figures, in the order of the table's rows.
fn column(kind: CreatorKind, figures: &CreatorFigures) -> [String; 15] {
    let (beside, ratios) = (&figures.beside, &figures.ratios);
    let by = |us: f64, ratio: Option<f64>| match ratio {
        Some(ratio) => format!("{} ({ratio:.2} ×)", number(us)),
        None => number(us),
    };
    let some = |us: Option<f64>| us.map(number).unwrap_or_default();
    // What such an overlay costs without a pool.
    let (on_demand_ratio, bare_create) = match kind {
        CreatorKind::Native => (Some(ratios.on_demand_to_create), Some(beside.create_us)),
        CreatorKind::StorageDaemon => (ratios.on_demand_to_qmp, None),
        CreatorKind::QemuImg => (ratios.on_demand_to_qemu_img, None),
    };
    [
        HumanCount(figures.count as u64).to_string(),
        number(figures.stock_ms),
        number(figures.restock_ms),
        by(figures.pooled_us.p50, Some(ratios.pooled_to_rename)),
        number(beside.rename_us),
        number(figures.pooled_us.p99),
        by(figures.on_demand_us.p50, on_demand_ratio),
        some(bare_create),
        some(beside.qmp_us),
        some(beside.qemu_img_us),
        number(figures.on_demand_us.p99),
        number(figures.acquires_per_s.from_one),
        number(figures.acquires_per_s.from_many),
        HumanCount(figures.disk_bytes >> 10).to_string(),
        HumanCount(figures.memory_bytes >> 20).to_string(),
    ]
}

pub(super) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

pub(super) fn align_right(table: &mut Table, columns: std::ops::RangeInclusive<usize>) {
    for at in columns {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Three digits, which is as many as a measurement is worth, or all before the point.
pub(super) fn number(number: f64) -> String {
    if number < 100.0 {
        format!("{number:.1}")
    } else {
        format!("{:.0}", HumanFloatCount(number.round()))
    }
}
