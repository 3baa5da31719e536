//! What is kept of a test that failed.

use std::path::PathBuf;
use std::process::Command;

use overlay_pool::creator::CreatorKind;

use crate::harness::pool_process::{PoolProcess, Setting};
use crate::harness::pools::{config, started};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

const FAILS: &str = "OVERLAY_POOL_TEST_FAILS";

/// Runs itself in a child process, where it fails.
#[apply(test)]
#[needs(StorageDaemon)]
#[case::on_disk("case_1_on_disk", scratch())]
#[case::in_memory("case_2_in_memory", scratch_in_memory())]
async fn a_failed_test_keeps_its_folder(#[case] name: &str, #[case] scratch: Scratch) {
    if std::env::var_os(FAILS).is_some() {
        return fail(scratch).await;
    }
    let itself = format!("integration::artefacts::a_failed_test_keeps_its_folder::{name}");
    let output = Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", &itself, "--nocapture"])
        .env(FAILS, "1")
        .output()
        .expect("the test binary runs");
    assert!(!output.status.success(), "it fails");
    let said = String::from_utf8_lossy(&output.stderr);
    let kept = said.lines().find_map(|line| line.strip_prefix("this test's folder is kept: "));
    let kept = PathBuf::from(kept.unwrap_or_else(|| panic!("it isn't said: {said}")));
    let read = |name: &str| {
        std::fs::read_to_string(kept.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };

    assert!(kept.starts_with(env!("CARGO_TARGET_TMPDIR")), "where CI looks for it");
    assert!(kept.join("vm.qcow2").exists(), "what the test made is there");
    let headers = read("headers.txt");
    for text in ["base.qcow2, ", "vm.qcow2, ", "process.qcow2, ", "backing_file: Some("] {
        assert!(headers.contains(text), "{text}: {headers}");
    }
    assert!(headers.contains("broken.qcow2, 3 bytes: "), "{headers}");
    for log in ["test.log", "pool-process.log"] {
        let log = read(log);
        for text in [r#""execute":"blockdev-create""#, r#""event": "JOB_STATUS_CHANGE""#] {
            assert!(log.contains(text), "no transcript, {text} isn't in it: {log}");
        }
    }
    std::fs::remove_dir_all(&kept).expect("removed");
    drop(scratch);
}

/// Two pools with a daemon each, in this process and in one of its own, and a failure.
async fn fail(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    Image::new(1 << 20).write(&base);
    std::fs::write(scratch.join("broken.qcow2"), "QFI").expect("a file");
    let pool = started(config(CreatorKind::StorageDaemon, &scratch, 2), &base).await;
    pool.acquire(&base, scratch.join("vm.qcow2")).await.expect("an overlay");
    let mut process = PoolProcess::launch(&scratch, Setting::new(CreatorKind::StorageDaemon));
    process.start(&[&base]).expect("an answer").expect("started");
    let target = scratch.join("process.qcow2");
    process.acquire(&base, &target).expect("an answer").expect("an overlay");
    panic!("on purpose");
}
