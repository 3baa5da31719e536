//! The figures of a server under load, as `--json` and a person read them.

use std::fmt::{self, Display};
use std::time::Duration;

use indicatif::HumanCount;
use serde::Serialize;

use super::{Figures, Load, Measured, Memory, RATE};
use crate::commands::bench::check::Checked;
use crate::commands::bench::machine::Machine;
use crate::commands::bench::measure::TASKS;
use crate::commands::bench::report::{Base, Percentiles, ratio, rounded, us};
use crate::commands::bench::samples::per_second;
use crate::commands::bench::table::{
    align_right, base_line, checked_line, machine_line, number, plain, targets_table,
};
use crate::commands::bench::target::Target;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(in crate::commands::bench) struct Report {
    machine: Machine,
    base: Base,
    clients: usize,
    /// How many overlays each side had ready at most.
    ready: usize,
    serve: SideFigures,
    in_process: SideFigures,
    memory_bytes: MemoryFigures,
    /// Of the server on any core, for one acquire and the creation of the next overlay.
    cpu_us_per_acquire: f64,
    ratios: Ratios,
    checked: Checked,
    targets: Vec<Target>,
}

/// As the clients see them.
#[derive(Debug, Serialize)]
struct SideFigures {
    /// Each after the answer to the last.
    plain: LoadFigures,
    /// At a steady rate of all clients together.
    paced: LoadFigures,
    /// Of a larger disk, which is never ready.
    larger: LoadFigures,
}

#[derive(Debug, Serialize)]
struct LoadFigures {
    acquires: usize,
    acquires_per_s: f64,
    pooled_percent: f64,
    /// None where there were none.
    pooled_us: Option<Percentiles>,
    on_demand_us: Option<Percentiles>,
}

/// Resident, of the server.
#[derive(Debug, Serialize)]
struct MemoryFigures {
    /// With a full pool, before the clients came.
    start: u64,
    /// After the first round.
    early: u64,
    end: u64,
    most: u64,
}

/// The server's by the pool's in process.
#[derive(Debug, Serialize)]
struct Ratios {
    acquires_per_s: f64,
    pooled_p50: Option<f64>,
    on_demand_p50: Option<f64>,
}

impl Report {
    pub(in crate::commands::bench) fn new(
        machine: Machine,
        base: Base,
        measured: &Measured,
    ) -> Self {
        let Measured { ready, server, in_process, memory, cpu, checked } = measured;
        let median = |load: &Load| load.pooled.percentile(50);
        let on_demand = |load: &Load| load.on_demand.percentile(50);
        let ratios = Ratios {
            acquires_per_s: rounded(server.plain.per_second() / in_process.plain.per_second()),
            pooled_p50: ratio(median(&server.plain), median(&in_process.plain)),
            on_demand_p50: ratio(on_demand(&server.larger), on_demand(&in_process.larger)),
        };
        Self {
            machine,
            base,
            clients: TASKS,
            ready: *ready,
            serve: server.figures(),
            in_process: in_process.figures(),
            memory_bytes: memory.figures(),
            cpu_us_per_acquire: us(*cpu),
            ratios,
            checked: *checked,
            targets: targets(server, memory),
        }
    }
}

/// What the project promises of a server, on two cores and tmpfs.
fn targets(server: &Figures, memory: &Memory) -> Vec<Target> {
    let Load { pooled, .. } = &server.paced;
    let p99 = pooled.percentile(99).unwrap_or(Duration::MAX).as_secs_f64() * 1e3;
    let rate = HumanCount(RATE.into());
    let grown = ratio_of(memory.end, memory.early);
    vec![
        Target {
            unit: "a second",
            ..Target::at_least("acquires", server.plain.per_second().round(), 10_000.0)
        },
        Target {
            unit: "ms",
            ..Target::at_most(format!("pooled p99 at {rate} a second"), rounded(p99), 5.0)
        },
        Target::at_most("memory at the end, by that after a fifth", grown, 1.1),
    ]
}

impl Load {
    fn count(&self) -> usize {
        self.pooled.len() + self.on_demand.len()
    }

    fn per_second(&self) -> f64 {
        per_second(self.count(), self.took)
    }

    fn figures(&self) -> LoadFigures {
        let percentiles = |samples| Some(Percentiles::of(samples)).filter(|of| of.p50 > 0.0);
        LoadFigures {
            acquires: self.count(),
            acquires_per_s: self.per_second().round(),
            pooled_percent: 100.0 * ratio_of(self.pooled.len() as u64, self.count() as u64),
            pooled_us: percentiles(&self.pooled),
            on_demand_us: percentiles(&self.on_demand),
        }
    }
}

impl Figures {
    fn figures(&self) -> SideFigures {
        let Self { plain, paced, larger } = self;
        SideFigures { plain: plain.figures(), paced: paced.figures(), larger: larger.figures() }
    }
}

impl Memory {
    fn figures(&self) -> MemoryFigures {
        let Self { start, early, end, most } = *self;
        MemoryFigures { start, early, end, most }
    }
}

fn ratio_of(one: u64, by: u64) -> f64 {
    let [one, by] = [one, by.max(1)].map(Duration::from_nanos);
    rounded(one.div_duration_f64(by))
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}", machine_line(&self.machine))?;
        writeln!(f, "base     {}", base_line(&self.base))?;
        let (clients, ready) = (self.clients, HumanCount(self.ready as u64));
        writeln!(f, "load     {clients} clients at once, {ready} overlays ready")?;
        writeln!(f, "\n{}", self.figures_table())?;
        let mib = |bytes: u64| number(ratio_of(bytes, 1 << 20));
        let MemoryFigures { start, early, end, most } = &self.memory_bytes;
        writeln!(
            f,
            "\nAn acquire costs the server {} µs on any core, with the creation of the next overlay.\n\
             Its memory: {} MiB at start, {} after a fifth, {} at the end, {} at most.",
            number(self.cpu_us_per_acquire),
            mib(*start),
            mib(*early),
            mib(*end),
            mib(*most)
        )?;
        let targets = targets_table("target, on two cores and tmpfs", &self.targets);
        writeln!(f, "\n{}\n", targets.trim_fmt())?;
        write!(f, "checked  {}", checked_line(&self.checked))
    }
}

impl Report {
    fn figures_table(&self) -> String {
        let by = |ratio: Option<f64>| ratio.map(|by| format!("{by:.2}")).unwrap_or_default();
        let (serve, in_process, ratios) = (&self.serve, &self.in_process, &self.ratios);
        let mut table = plain();
        table.set_header(["", "serve", "in process", "×"]);
        let mut row = |name: &str, figure: &dyn Fn(&SideFigures) -> String, by: String| {
            table.add_row([name.to_owned(), figure(serve), figure(in_process), by]);
        };
        let p50 = |figures: Option<Percentiles>| figures.map(|of| number(of.p50));
        let p99 = |figures: Option<Percentiles>| figures.map(|of| number(of.p99));
        let acquires = |side: &SideFigures| HumanCount(side.plain.acquires as u64).to_string();
        row("acquires", &acquires, String::new());
        let rate = |side: &SideFigures| number(side.plain.acquires_per_s);
        row("acquires/s", &rate, by(Some(ratios.acquires_per_s)));
        let share = |side: &SideFigures| format!("{:.1}", side.plain.pooled_percent);
        row("pooled, %", &share, String::new());
        let pooled = |side: &SideFigures| p50(side.plain.pooled_us).unwrap_or_default();
        row("pooled p50, µs", &pooled, by(ratios.pooled_p50));
        let pooled = |side: &SideFigures| p99(side.plain.pooled_us).unwrap_or_default();
        row("pooled p99, µs", &pooled, String::new());
        let rate = HumanCount(RATE.into());
        let paced = |side: &SideFigures| format!("{:.1}", side.paced.pooled_percent);
        row(&format!("at {rate}/s: pooled, %"), &paced, String::new());
        let paced = |side: &SideFigures| p50(side.paced.pooled_us).unwrap_or_default();
        row(&format!("at {rate}/s: pooled p50, µs"), &paced, String::new());
        let paced = |side: &SideFigures| p99(side.paced.pooled_us).unwrap_or_default();
        row(&format!("at {rate}/s: pooled p99, µs"), &paced, String::new());
        let rate = |side: &SideFigures| number(side.larger.acquires_per_s);
        row("on demand/s", &rate, String::new());
        let on_demand = |side: &SideFigures| p50(side.larger.on_demand_us).unwrap_or_default();
        row("on demand p50, µs", &on_demand, by(ratios.on_demand_p50));
        let on_demand = |side: &SideFigures| p99(side.larger.on_demand_us).unwrap_or_default();
        row("on demand p99, µs", &on_demand, String::new());
        align_right(&mut table, 1..=3);
        table.trim_fmt()
    }
}
