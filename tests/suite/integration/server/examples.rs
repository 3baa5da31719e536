//! The clients of `fixtures/clients`, as a newcomer runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::cli::{self, Answer};
use crate::harness::prelude::*;
use crate::harness::python::program;
use crate::harness::requirements;
use crate::harness::server::{self, Server};

fn fixture(name: &str) -> PathBuf {
    let repository = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    repository.join("fixtures/clients").join(name)
}

fn target(scratch: &Path) -> PathBuf {
    server::vms(scratch).join("vm.qcow2")
}

/// Runs a client, twice for one target: the second time it is told that the target exists.
fn run(scratch: &Path, client: impl Fn() -> Command) -> [Answer; 2] {
    let server = Server::of_one_base(scratch);
    let target = target(scratch);
    let answers = [(); 2].map(|()| {
        let mut command = client();
        command.arg(server.socket()).args([server::base(scratch), target.clone()]);
        cli::run(&mut command)
    });
    assert!(target.is_file(), "{}", answers[0]);
    server.stop();
    answers
}

#[apply(test)]
#[needs(Curl)]
fn a_disk_comes_by_curl(scratch: Scratch) {
    let [first, second] = run(&scratch, || {
        let mut command = Command::new("sh");
        command.arg(fixture("curl.sh"));
        command
    });
    assert_eq!(first.code, Some(0), "{first}");
    let mut answers = first
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let (acquired, stats) = (answers.next().expect("two"), answers.next().expect("two"));
    assert_eq!((&acquired["source"], &stats["pooled"]), (&"pooled".into(), &1.into()));
    let sentence = second.stderr.starts_with("curl.sh: already-exists: ");
    assert!(second.code == Some(22) && second.stdout.is_empty() && sentence, "{second}");
    assert!(second.stderr.contains(&*target(&scratch).to_string_lossy()), "{second}");
    assert_eq!(second.stderr.lines().count(), 1, "{second}");
}

#[apply(test)]
#[needs(Python)]
fn disks_come_by_python(scratch: Scratch) {
    let [first, second] = run(&scratch, || {
        let mut command = Command::new(program("python3"));
        command.arg("-B").arg(fixture("client.py"));
        command
    });
    assert_eq!(first.code, Some(0), "{first}");
    let [by_path, by_descriptor] = first.stdout.lines().collect::<Vec<_>>()[..] else {
        panic!("not two lines: {first}");
    };
    assert!(by_path.contains("'source': 'pooled'"), "{first}");
    assert!(by_descriptor.contains("'source': 'pooled'"), "{first}");
    assert!(by_descriptor.ends_with(" bytes") && !by_descriptor.ends_with(" 0 bytes"));
    let sentence = second.stderr.starts_with("client.py: already-exists: ");
    assert!(second.code == Some(1) && sentence, "{second}");
    assert_eq!(second.stderr.lines().count(), 1, "{second}");
}

/// Without a server it is said which is missing.
#[track_caller]
fn finds_no_server(scratch: &Path, mut client: Command, code: i32, sentence: &str) {
    client.current_dir(scratch).args(["none.sock", "base.qcow2", "target.qcow2"]);
    let failed = cli::run(&mut client);
    assert_eq!((failed.code, failed.stderr.lines().count()), (Some(code), 1), "{failed}");
    assert!(failed.stderr.starts_with(sentence), "{failed}");
}

#[apply(test)]
#[needs(Curl)]
fn no_server_is_a_sentence_by_curl(scratch: Scratch) {
    let mut command = Command::new("sh");
    command.arg(fixture("curl.sh"));
    finds_no_server(&scratch, command, 7, "curl.sh: no server at none.sock; ");
}

#[apply(test)]
#[needs(Python)]
fn no_server_is_a_sentence_by_python(scratch: Scratch) {
    let mut command = Command::new(program("python3"));
    command.arg("-B").arg(fixture("client.py"));
    finds_no_server(&scratch, command, 1, "client.py: no server at none.sock: ");
}

#[apply(test)]
#[needs(Examples)]
fn no_server_is_a_sentence_in_rust(scratch: Scratch) {
    let client = Command::new(requirements::example("client"));
    finds_no_server(&scratch, client, 1, "client: no server at none.sock: ");
}

#[apply(test)]
#[needs(Examples)]
fn disks_come_by_rust(scratch: Scratch) {
    let [first, second] = run(&scratch, || Command::new(requirements::example("client")));
    assert_eq!((first.code, first.stdout.lines().count()), (Some(0), 3), "{first}");
    assert!(first.stdout.contains("source: Pooled"), "{first}");
    assert!(first.stdout.contains("\nPooled, "), "{first}");
    assert!(second.code == Some(0) && second.stdout.contains("already exists"), "{second}");
}
