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
    let told = told(&text);
    // What a driver of Kubernetes tells is looked at where there is one.
    let of_server = |name: &String| !name.starts_with("overlay_pool_csi_");
    let looked_at: BTreeSet<_> = looked_at().into_iter().filter(of_server).collect();
    assert!(looked_at.len() > 10, "{looked_at:?}");
    let unknown: Vec<_> = looked_at.difference(&told).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {told:?}");
}

/// Of many hosts each is told from the others, and all together are to be seen.
#[apply(test)]
fn the_dashboard_is_of_many_hosts() {
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).expect("JSON");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let host = variables.iter().find(|one| one["name"] == "instance").expect("one of hosts");
    assert_eq!((&host["multi"], &host["includeAll"]), (&true.into(), &true.into()), "{host}");
    let panels = dashboard["panels"].as_array().expect("panels");
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")) {
        let text = |field: &str| target[field].as_str().expect("text");
        let (expression, legend) = (text("expr"), text("legendFormat"));
        let selectors = expression.matches("overlay_pool_").count();
        let chosen = expression.matches("instance=~\"$instance\"").count();
        assert_eq!(chosen, selectors, "all of it is of the hosts that are chosen: {expression}");
        // A sum is of all hosts, unless it says by which.
        let sums = expression.contains("sum(") || expression.contains("sum by (");
        let by_host = expression
            .split("sum by (")
            .skip(1)
            .any(|rest| rest.split(')').next().is_some_and(|labels| labels.contains("instance")));
        let says_host = legend.contains("{{instance}}");
        assert_eq!(says_host, !sums || by_host, "{expression}: {legend}");
    }
    let hosts = panels.iter().find(|panel| panel["title"] == "Hosts").expect("a panel of hosts");
    assert_eq!(hosts["type"], "table");
}

/// What Prometheus is to be told, to ask servers and drivers on many hosts.
#[apply(test)]
#[needs(Promtool)]
fn prometheus_takes_the_configuration(scratch: Scratch) {
    let check =
        |file: &Path| cli::run(Command::new(promtool()).args(["check", "config"]).arg(file));
    let answer = check(&fixture("prometheus.yml"));
    assert_eq!(answer.code, Some(0), "{answer}");
    // It reads the alerts too, and complains of what is wrong.
    std::fs::copy(fixture("alerts.yml"), scratch.join("alerts.yml")).expect("a copy");
    let wrong = read("prometheus.yml").replace("action: replace", "action: nothing");
    assert_ne!(wrong, read("prometheus.yml"));
    std::fs::write(scratch.join("prometheus.yml"), wrong).expect("a file");
    assert_eq!(check(&scratch.join("prometheus.yml")).code, Some(1));
}

/// What a server or a driver tells has the form that Prometheus wants.
#[apply(test)]
#[needs(Promtool)]
fn promtool_reads_what_is_told(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let text = server.get("/metrics").body;
    server.stop();
    std::fs::write(scratch.join("metrics"), text).expect("a file");
    let file = std::fs::File::open(scratch.join("metrics")).expect("a file");
    let mut command = Command::new(promtool());
    let answer = cli::run(command.args(["check", "metrics"]).stdin(file));
    assert!(!answer.stderr.contains("error while linting"), "{answer}");
}

/// The names of the metrics that alerts and dashboard look at.
pub(crate) fn looked_at() -> BTreeSet<String> {
    names(&(read("alerts.yml") + &expressions().join("\n")))
}

/// The names of the metrics in a text that Prometheus is told.
pub(crate) fn told(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| names(line.split(['{', ' ']).next().unwrap_or_default())).collect()
}

fn names(text: &str) -> BTreeSet<String> {
    let is_name = |char: char| char.is_ascii_lowercase() || char == '_';
    let words = text.split(|char| !is_name(char));
    words.filter(|word| word.starts_with("overlay_pool_")).map(str::to_owned).collect()
}
