//! The benchmark of volumes, with tiny counts: nothing is said of how long anything takes.

use serde_json::Value;

use super::{NODE, names};
use crate::harness::prelude::*;
use crate::harness::{bench, cli};

const NEEDS: &[Need] = NODE;

#[apply(test)]
fn volumes_are_measured(scratch: Scratch) {
    let mut command = bench::command("csi", &scratch);
    command.args(["--count", "3", "--at-once", "4", "--rounds", "2", "--json"]);
    let answer = cli::run(&mut command);
    let figures: Value =
        serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    let targets = figures["targets"].as_array().expect("targets");
    let missed = targets.iter().filter(|target| target["verdict"] == "missed").count();
    assert_eq!((targets.len(), answer.code), (4, Some(i32::from(missed > 0))), "{answer}");
    assert_eq!(figures["sound"], 4);
    for (column, volumes) in [("single", 3.0), ("together", 8.0)] {
        let of = |name: &str| figures["columns"][column][name].as_f64().expect("a figure");
        assert_eq!(of("volumes").to_bits(), f64::to_bits(volumes));
        for call in ["publish", "unpublish"] {
            let (p50, p99) = (of(&format!("{call}_p50_us")), of(&format!("{call}_p99_us")));
            assert!(0.0 < p50 && p50 <= p99, "{call}: {p50}, {p99}");
        }
    }
    assert_eq!(names(&scratch), [""; 0]);
}
