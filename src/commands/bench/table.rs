//! The figures, as a person reads them.

use std::fmt::{self, Display};

use comfy_table::{CellAlignment, Table, presets};
use overlay_pool::creator::CreatorKind;

use super::measure::TASKS;
use super::report::{CreatorFigures, Percentiles, Report};

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}", self.machine_line())?;
        writeln!(f, "base     {}", self.base_line())?;
        for (kind, reason) in &self.missing {
            writeln!(f, "missing  {}: {reason}", kind.as_str())?;
        }
        writeln!(f, "\n{}\n", self.creators_table())?;
        writeln!(
            f,
            "× is by the floor, and by the bare QMP commands for storage-daemon on demand;"
        )?;
        writeln!(f, "both were measured in turns with what they stand beside.")?;
        writeln!(f, "\n{}\n", self.targets_table())?;
        let checked = &self.checked;
        let of_them = match checked.with_qemu_img {
            0 => String::new(),
            some => format!(", {} of them by qemu-img check too", thousands(some)),
        };
        write!(f, "checked  all {} overlays are sound{of_them}", thousands(checked.overlays))
    }
}

impl Report {
    fn machine_line(&self) -> String {
        let machine = &self.machine;
        let qemu = machine.qemu.as_deref().map_or("no QEMU".to_owned(), |v| format!("QEMU {v}"));
        format!("{} cores, Linux {}, {}, {qemu}", machine.cores, machine.kernel, machine.filesystem)
    }

    fn base_line(&self) -> String {
        let origin = if self.base.made { "made for this run" } else { "yours" };
        let gib = self.base.virtual_size >> 20;
        format!("{}, {} MiB, {origin}", self.base.format, thousands(gib))
    }

    fn creators_table(&self) -> Table {
        let columns: Vec<(CreatorKind, &CreatorFigures)> =
            self.creators.iter().map(|(kind, figures)| (*kind, figures)).collect();
        let row = |name: &str,
                   floor: String,
                   cell: &dyn Fn(CreatorKind, &CreatorFigures) -> String,
                   qemu_img: String| {
            let cells = columns.iter().map(|(kind, figures)| cell(*kind, figures));
            let cells = [name.to_owned(), floor].into_iter().chain(cells).chain([qemu_img]);
            cells.collect::<Vec<_>>()
        };
        let none = String::new;
        let by = |us: f64, ratio: f64| format!("{} ({ratio:.2}×)", micros(us));
        let on_demand = |kind, figures: &CreatorFigures| {
            let ratios = &figures.ratios;
            let ratio = match kind {
                CreatorKind::StorageDaemon => ratios.on_demand_to_qmp,
                _ => Some(ratios.on_demand_to_create),
            };
            by(figures.on_demand_us.p50, ratio.unwrap_or_default())
        };
        let p99 = |percentiles: Percentiles| micros(percentiles.p99);
        let create = self.qemu_img.as_ref().map_or("-".to_owned(), |it| micros(it.create_us));
        let mut table = plain();
        table.set_header(row(
            "",
            "floor".into(),
            &|kind, _| kind.as_str().to_owned(),
            "qemu-img create".into(),
        ));
        table.add_rows([
            row("overlays", none(), &|_, it| thousands(it.count), none()),
            row("stock, ms", none(), &|_, it| millis(it.stock_ms), none()),
            row("restock, ms", none(), &|_, it| millis(it.restock_ms), none()),
            row(
                "pooled p50, µs",
                micros(self.floor.rename_us),
                &|_, it| by(it.pooled_us.p50, it.ratios.pooled_to_rename),
                none(),
            ),
            row("pooled p99, µs", none(), &|_, it| p99(it.pooled_us), none()),
            row("on demand p50, µs", micros(self.floor.create_us), &on_demand, create),
            row("on demand p99, µs", none(), &|_, it| p99(it.on_demand_us), none()),
            row("acquires/s, 1 task", none(), &|_, it| whole(it.acquires_per_s.from_one), none()),
            row(
                &format!("acquires/s, {TASKS} tasks"),
                none(),
                &|_, it| whole(it.acquires_per_s.from_many),
                none(),
            ),
            row("disk/overlay, KiB", none(), &|_, it| thousands(it.disk_bytes >> 10), none()),
            row("memory, MiB", none(), &|_, it| thousands(it.memory_bytes >> 20), none()),
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn targets_table(&self) -> Table {
        let mut table = plain();
        table.set_header(["target", "wanted", "measured", ""]);
        for target in &self.targets {
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
        for column in table.column_iter_mut().skip(1).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Three digits at least, and no more than a measurement is worth.
fn micros(us: f64) -> String {
    if us < 100.0 { format!("{us:.1}") } else { whole(us) }
}

fn millis(ms: f64) -> String {
    micros(ms)
}

fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    grouped(&digits)
}

fn thousands(number: impl Display) -> String {
    grouped(&number.to_string())
}

fn grouped(digits: &str) -> String {
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
