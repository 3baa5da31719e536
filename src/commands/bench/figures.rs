//! Figures, and what is promised of them. The benches in `tests/bench` share this file.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::HumanFloatCount;
use serde::Serialize;

/// What `percent` of the samples don't exceed, by the nearest rank, in µs; none of no samples.
pub(crate) fn percentile(mut samples: Vec<Duration>, percent: usize) -> Option<f64> {
    samples.sort_unstable();
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).map(|sample| sample.as_secs_f64() * 1e6)
}

/// The figures of one column by name, each set if there is one.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures(pub(crate) BTreeMap<String, f64>);

impl Figures {
    pub(crate) fn set(&mut self, name: impl Into<String>, figure: impl Into<Option<f64>>) {
        self.0.extend(figure.into().map(|figure| (name.into(), figure)));
    }

    pub(crate) fn divide(&mut self, name: impl Into<String>, one: &str, by: &str) {
        self.set(name, self.0.get(one).zip(self.0.get(by)).map(|(one, by)| one / by));
    }
}

pub(crate) type Columns = BTreeMap<&'static str, Figures>;

/// A figure's name, what a person calls it, and what is promised of it in one column.
pub(crate) type Row = (&'static str, &'static str, Option<(&'static str, char, f64)>);

/// A promise, and whether this run kept it.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    name: &'static str,
    wanted: String,
    measured: f64,
    /// `met`, `missed`, or `not judged` and why.
    pub(crate) verdict: String,
}

/// Judges what was measured, unless there is a reason not to.
pub(crate) fn judge(rows: &[Row], columns: &Columns, unless: Option<&str>) -> Vec<Target> {
    let judge = |(name, _, promise): &Row| {
        let (column, sign, limit) = (*promise)?;
        let measured = *columns.get(column)?.0.get(*name)?;
        let met = if sign == '≤' { measured <= limit } else { measured >= limit };
        let judged = || if met { "met" } else { "missed" }.to_owned();
        let verdict = unless.map_or_else(judged, |reason| format!("not judged: {reason}"));
        let wanted = format!("{column} {sign} {}", number(limit));
        Some(Target { name, wanted, measured, verdict })
    };
    rows.iter().filter_map(judge).collect()
}

/// One table of it all, without the rows of which no column has a figure.
pub(crate) fn table(rows: &[Row], columns: &Columns, targets: &[Target]) -> String {
    let mut text = format!("{:34}", "");
    text.extend(columns.keys().map(|column| format!("{column:>15}")));
    for (name, label, _) in rows {
        let figures: Vec<_> = columns.values().map(|figures| figures.0.get(*name)).collect();
        if figures.iter().all(Option::is_none) {
            continue;
        }
        let cells = figures.iter().map(|figure| figure.copied().map(number).unwrap_or_default());
        text.extend(
            [format!("\n{label:34}")].into_iter().chain(cells.map(|it| format!("{it:>15}"))),
        );
        let judged = targets.iter().filter(|target| target.name == *name);
        text.extend(judged.map(|it| format!("  {}: {}", it.wanted, it.verdict)));
    }
    text
}

/// Two digits after the point where they say something, four below one.
fn number(number: f64) -> String {
    let whole = number.fract() == 0.0 || number >= 100.0;
    let digits = if whole { 0 } else { 2 + 2 * usize::from(number < 1.0) };
    format!("{:.digits$}", HumanFloatCount(number))
}
