//! What one look at a server shows.

use std::fmt::{self, Display};
use std::time::{Instant, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanCount;
use overlay_pool::api::{BaseState, Client, ClientError, Stats};
use serde::Serialize;

use crate::commands::text;

/// What a server said.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Look {
    /// When, in seconds since 1970.
    time: f64,
    /// Why overlays aren't kept ready.
    not_ready: Option<String>,
    bases: Vec<BaseState>,
    #[serde(flatten)]
    stats: Stats,
    #[serde(skip)]
    at: Instant,
}

impl Look {
    pub(super) async fn at(client: &Client) -> Result<Self, ClientError> {
        let stats = client.stats().await?;
        Ok(Self {
            time: UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64(),
            not_ready: client.not_ready().await?,
            bases: client.bases().await?,
            stats,
            at: Instant::now(),
        })
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default();
        format!("{}\n", text::escaped_json(&json))
    }

    /// With rates per second since the last look.
    pub(super) fn since<'a>(&'a self, last: Option<&'a Self>) -> impl Display + 'a {
        Shown { look: self, last }
    }

    /// None if the server started anew in between.
    fn rates(&self, last: &Self) -> Option<[f64; 4]> {
        let seconds = self.at.duration_since(last.at).as_secs_f64();
        let mut rates = [0.0; 4];
        let counts = counts(&self.stats).into_iter().zip(counts(&last.stats));
        for (rate, (now, before)) in rates.iter_mut().zip(counts) {
            let grown = u32::try_from(now.checked_sub(before)?).unwrap_or(u32::MAX);
            *rate = f64::from(grown) / seconds;
        }
        Some(rates)
    }
}

impl Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { look: self, last: None }.fmt(f)
    }
}

/// The counters come first: if a screen is too short for all base images, these are cut off.
struct Shown<'a> {
    look: &'a Look,
    last: Option<&'a Look>,
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Look { not_ready, bases, stats, .. } = self.look;
        let mut table = plain(["", "pooled", "on demand", "failed", "discarded"]);
        let row = |name: &str, cells: [String; 4]| [name.to_owned()].into_iter().chain(cells);
        table.add_row(row("since start", counts(stats).map(|n| HumanCount(n).to_string())));
        if let Some(last) = self.last {
            let rates = self.look.rates(last);
            let shown = rates.map(|rates| rates.map(|rate| format!("{rate:.1}")));
            table.add_row(row("per second", shown.unwrap_or_else(|| [(); 4].map(|()| "-".into()))));
        }
        writeln!(f, "{}", table.trim_fmt())?;
        if let Some(reason) = not_ready {
            writeln!(f, "\nnot ready: {}", text::escaped(reason))?;
        }
        if bases.is_empty() {
            return writeln!(f, "\nno base images");
        }
        // Their number also tells what a short screen has cut off.
        let head = match bases.len() {
            1 => "1 base image".to_owned(),
            number => format!("{number} base images"),
        };
        let mut table = plain([&head, "ready", "stale", "pending"]);
        for base in bases {
            table.add_row([
                text::escaped_path(&base.path),
                format!("{}/{}", base.ready, base.target),
                base.stale.to_string(),
                base.pending.to_string(),
            ]);
        }
        writeln!(f, "\n{}", table.trim_fmt())?;
        let refused: Vec<_> = bases.iter().filter_map(|base| base.refused.as_ref()).collect();
        if !refused.is_empty() {
            writeln!(f)?;
        }
        refused.into_iter().try_for_each(|why| writeln!(f, "refused: {}", text::escaped(why)))
    }
}

/// In the order of the columns.
fn counts(stats: &Stats) -> [u64; 4] {
    [stats.pooled, stats.on_demand, stats.failed, stats.discarded]
}

/// A table whose first column is of names and whose others are of numbers.
fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}
