//! What an operator gives Prometheus and Grafana (`fixtures/monitoring`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::cli;
use crate::harness::prelude::*;
use crate::harness::requirements::promtool;
use crate::harness::server::Server;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).expect("a file of fixtures/monitoring")
}

/// The expressions of the dashboard's panels, for all instances.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let expressions = targets.map(|target| target["expr"].as_str().expect("an expression"));
    expressions.map(|text| text.replace("$instance", ".*")).collect()
}

#[apply(test)]
#[needs(Promtool)]
fn each_alert_fires_for_what_it_is_about(scratch: Scratch) {
    let test = |file: &Path| cli::run(Command::new(promtool()).args(["test", "rules"]).arg(file));
    let answer = test(&fixture("alerts-test.yml"));
    assert_eq!(answer.code, Some(0), "{answer}");
    let alerts = read("alerts.yml");
    let (names, tests) = (alerts.matches("- alert: ").count(), read("alerts-test.yml"));
    assert_eq!((names > 5, tests.matches("        alertname: ").count()), (true, names));
    // Told the opposite, it complains: the files are looked at.
    std::fs::write(scratch.join("alerts-test.yml"), tests).expect("a copy");
    std::fs::write(scratch.join("alerts.yml"), alerts.replace("== 1", "== 0")).expect("a copy");
    assert_eq!(test(&scratch.join("alerts-test.yml")).code, Some(1));
}

#[apply(test)]
#[needs(Promtool)]
fn the_dashboard_s_expressions_are_prometheus_s(scratch: Scratch) {
    let rule = |(number, expression): (usize, &String)| serde_json::json!({ "record": format!("panel:{number}"), "expr": expression });
    let rules: Vec<_> = expressions().iter().enumerate().map(rule).collect();
    let count = rules.len();
    // YAML takes JSON.
    let file = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(scratch.join("rules.yml"), file.to_string()).expect("a file");
    let file = scratch.join("rules.yml");
    let answer = cli::run(Command::new(promtool()).args(["check", "rules"]).arg(file));
    assert!(answer.stdout.contains(&format!("{count} rules found")), "{answer}");
    assert_eq!(answer.code, Some(0), "{answer}");
}

#[apply(test)]
fn every_metric_that_is_looked_at_is_there(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let text = server.get("/metrics").body;
    server.stop();
    let is_name = |char: char| char.is_ascii_lowercase() || char == '_';
    let names = |text: &str| -> BTreeSet<String> {
        let words = text.split(|char| !is_name(char));
        words.filter(|word| word.starts_with("overlay_pool_")).map(str::to_owned).collect()
    };
    let told: BTreeSet<_> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| names(line.split(['{', ' ']).next().unwrap_or_default()))
        .collect();
    let looked_at = names(&(read("alerts.yml") + &expressions().join("\n")));
    assert!(looked_at.len() > 10, "{looked_at:?}");
    let unknown: Vec<_> = looked_at.difference(&told).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {told:?}");
}
