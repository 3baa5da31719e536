//! The guides in `src/guides` and README, as their readers try them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::cli::{clean, run};
use crate::harness::prelude::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks of a text that say `tried`, as one script.
fn tried(text: &str) -> String {
    let mut script = String::new();
    // What ends the block that a line is in, if that is tried.
    let mut within = None;
    for line in text.lines() {
        if line.starts_with("```") {
            script += within.unwrap_or_default();
            within = match line {
                "```sh tried" => Some(""),
                "```python tried" => {
                    script += "python3 -B - <<'END'\n";
                    Some("END\n")
                }
                _ => None,
            };
        } else if within.is_some() {
            script += line;
            script.push('\n');
        }
    }
    script
}

/// With the reader's directories in the test's folder.
#[apply(test)]
#[needs(QemuImg, Curl, Python)]
#[case::ci_runner("src/guides/ci_runner.md")]
#[case::operating("src/guides/operating.md")]
#[case::readme("README.md")]
#[case::server("src/guides/server.md")]
fn what_a_text_says_works(scratch: Scratch, #[case] file: &str) {
    let text = std::fs::read_to_string(root().join(file)).expect("a text");
    let script = tried(&text).replace("/var/lib/vms", &scratch.join("vms").display().to_string());
    assert!(!script.is_empty(), "{file} has nothing to try");
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_overlay-pool"));
    let programs = programs.parent().expect("its folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [programs].into_iter().chain(std::env::split_paths(&path));
    let mut command = clean(Command::new("bash"), &scratch);
    command.env("PATH", std::env::join_paths(path).expect("a PATH"));
    command.env("PYTHONPATH", root().join("fixtures/clients/python/src"));
    let ended = format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n{script}");
    let answer = run(command.args(["-c", &ended]));
    assert_eq!(answer.code, Some(0), "{ended}\n{answer}");
}

/// Whoever meets an error finds it there.
#[apply(test)]
fn what_to_do_is_said_after_each_error() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).expect("a file");
    let problem = read("src/api/server/problem.rs");
    let titles = problem.split("fn title").nth(1).expect("the titles");
    let titles = titles.split("\n}").next().expect("their end");
    let mut names: Vec<_> = titles
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"))
        .map(|(name, _)| name)
        .collect();
    names.push("creator-unavailable");
    assert!(names.len() > 10, "{names:?}");
    let guide = read("src/guides/operating.md");
    let missing: Vec<_> =
        names.into_iter().filter(|name| !guide.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?} are not in operating.md");
}
