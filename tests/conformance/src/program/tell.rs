//! What the program says while it judges, on the standard error, and of the port, on the standard
//! output. Where nobody reads it, a port is judged all the same.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use console::{StyledObject, style};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cases::Named;
use crate::host::Need;
use crate::id;
use crate::isolation;
use crate::port::Port;
use crate::report::{Report, Word};

/// Tells in one table what this machine lacks for these cases, whose folders shall lie in this one;
/// whether any is skipped for that.
pub(super) fn lacks(cases: &[Named], port: &Port, folder: &Path) -> bool {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["missing", "why", "so", "what to do"]);
    let (barred, cases): (Vec<&Named>, Vec<&Named>) =
        cases.iter().partition(|named| port.barrier(&named.case, folder).is_some());
    let barrier = barred.first().and_then(|named| port.barrier(&named.case, folder));
    let mut lacks_something = barrier.is_some();
    if let Some(closed) = barrier {
        let closed = closed.display();
        table.add_row([
            "a way".to_owned(),
            format!("root can't pass {closed} without its powers"),
            skipped(barred.len()),
            format!("chmod o+x {closed}, or put the shim and TMPDIR elsewhere"),
        ]);
    }
    for need in Need::ALL {
        let count = cases.iter().filter(|named| Need::of(&named.case).contains(&need)).count();
        if count == 0 {
            continue;
        }
        if let Err(why) = need.probe() {
            lacks_something = true;
            table.add_row([need.name(), why, &skipped(count), need.advice()]);
        }
    }
    if let Err(why) = isolation::probe() {
        let so = "cases see each other's processes";
        table.add_row([
            "PID namespace",
            why,
            so,
            "install util-linux, and let this user make them",
        ]);
    }
    if table.row_count() > 0 {
        warning(format_args!("{table}"));
    }
    lacks_something
}

fn skipped(cases: usize) -> String {
    if cases == 1 { "1 case is skipped".to_owned() } else { format!("{cases} cases are skipped") }
}

/// A bar on a terminal, and nothing elsewhere.
pub(super) fn progress(cases: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} cases, {elapsed} {msg}");
    let bar = ProgressBar::new(cases as u64);
    bar.with_style(style.expect("the template is sound"))
}

/// A line on the standard error.
pub(super) fn warning(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// A line on the standard output.
pub(super) fn line(what: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{what}");
}

/// Each failed case, whole.
pub(super) fn failures(report: &Report) {
    for case in &report.cases {
        let Some(failure) = case.failure.as_ref().filter(|_| case.verdict == Word::Fail) else {
            continue;
        };
        let promises = id::told(&case.promises);
        line(format_args!("{} {} [{promises}]", colored(Word::Fail), case.name));
        line(format_args!("    {}\n", failure.told(case).replace('\n', "\n    ")));
    }
}

/// What wasn't judged and why, and the numbers.
pub(super) fn summary(report: &Report) {
    for word in [Word::Skip, Word::Disabled] {
        for case in report.cases.iter().filter(|case| case.verdict == word) {
            let reason = case.reason.as_deref().unwrap_or_default();
            line(format_args!("{} {}: {reason}", colored(word), case.name));
        }
    }
    let count =
        |word| (report.count(word) > 0).then(|| format!("{} {}", report.count(word), told(word)));
    let counts: Vec<String> = [Word::Pass, Word::Fail, Word::Skip, Word::Disabled]
        .into_iter()
        .filter_map(count)
        .collect();
    let (port, cases, counts) = (report.port_name(), report.cases.len(), counts.join(", "));
    line(format_args!("{port}: {cases} cases: {counts}"));
    if report.is_whole() {
        let (kept, of) = (report.kept(), report.promises.len());
        line(format_args!("{kept} of {of} promises of {} are kept", report.contract_name()));
    }
}

fn told(word: Word) -> &'static str {
    match word {
        Word::Pass => "passed",
        Word::Fail => "failed",
        Word::Skip => "skipped",
        Word::Disabled => "disabled",
    }
}

fn colored(word: Word) -> StyledObject<String> {
    let text = style(word.as_str().to_uppercase());
    match word {
        Word::Pass => text.green(),
        Word::Fail => text.red(),
        Word::Skip => text.dim(),
        Word::Disabled => text.yellow(),
    }
}
