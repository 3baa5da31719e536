//! The benchmark of pulls, with tiny counts: nothing is said of how long anything takes.

use serde_json::Value;

use crate::harness::prelude::*;
use crate::harness::scratch::names;
use crate::harness::{bench, cli};

const NEEDS: &[Need] = &[Need::Registry];

#[apply(test)]
fn pulls_are_measured(scratch: Scratch) {
    let mut command = bench::command("images", &scratch);
    let answer = cli::run(command.args(["--size", "3", "--rounds", "2", "--json"]));
    let figures: Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    let targets = figures["targets"].as_array().expect("targets");
    let missed = targets.iter().filter(|target| target["verdict"] == "missed").count();
    assert_eq!((targets.len(), answer.code), (1, Some(i32::from(missed > 0))), "{answer}");
    assert_eq!(figures["sound"], 2);
    let speed = |column: &str| {
        figures["columns"][column]["megabytes_per_second"].as_f64().expect("a figure")
    };
    let share = figures["columns"]["pull"]["share"].as_f64().expect("a figure");
    assert!((share - speed("pull") / speed("cp, sha256sum")).abs() < 1e-9, "{answer}");
    assert_eq!(names(&scratch), [""; 0]);
}
