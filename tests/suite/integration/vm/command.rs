//! `overlay-pool exec`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use overlay_pool::vm::VmSettings;
use serde_json::Value;

use crate::harness::bench;
use crate::harness::cli::{self, run};
use crate::harness::prelude::*;
use crate::harness::vms::{images, states};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

fn exec(scratch: &Path) -> Command {
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    let mut command = cli::overlay_pool(scratch);
    command.arg("exec").env("OVERLAY_POOL_IMAGES", images());
    command.env("OVERLAY_POOL_STATES", states()).args(["--accel", accelerator.as_str()]);
    command
}

#[rstest]
#[test_attr(apply(case))]
fn hello_from_pool(scratch: Scratch) {
    let answer = run(exec(&scratch).args(["python", "-c", "print('hello from pool')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello from pool\n"), "{answer}");
    assert_eq!(answer.stderr, "");

    let code = "import sys\nprint('out'); print('err', file=sys.stderr); sys.exit(3)";
    std::fs::write(scratch.join("code.py"), code).expect("a file");
    let kept = scratch.join("kept.qcow2");
    let answer = run(exec(&scratch).args(["python", "code.py", "--keep"]).arg(&kept));
    let said = (answer.code, &*answer.stdout, &*answer.stderr);
    assert_eq!(said, (Some(3), "out\n", "err\n"), "{answer}");
    assert!(kept.is_file());
    let left = scratch.join("pool");
    assert!(!left.exists(), "{:?} are left", left.read_dir().map(Vec::from_iter));
}

#[rstest]
#[test_attr(apply(case))]
fn json_from_standard_input(scratch: Scratch) {
    let mut command = exec(&scratch);
    command.args(["python", "--json", "--timeout", "50"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(b"print(6 * 7)").expect("code");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(facts["stdout"], "42\n");
    assert_eq!(facts["exit_code"], 0);
    assert_eq!(facts["disk"], "pooled");
    for phase in ["overlay", "spawn", "boot", "renew", "execute"] {
        assert!(facts["seconds"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{facts}");
    }
}

#[rstest]
#[test_attr(apply(case))]
fn what_keeps_code_from_running(scratch: Scratch) {
    let answer = run(exec(&scratch).args(["python", "missing.py"]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("missing.py"), "{answer}");
    let answer = run(exec(&scratch).args(["raw", "-c", "true"]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("no base image of raw"), "{answer}");
    let answer = run(exec(&scratch).env("OVERLAY_POOL_MEMORY", "much").args(["python", "-c", ""]));
    assert_eq!(answer.code, Some(2), "{answer}");
    assert!(answer.stderr.contains("OVERLAY_POOL_MEMORY=\"much\""), "{answer}");
}

/// QEMU dies with its owner, however that ends; the next owner removes what it left.
#[rstest]
#[test_attr(apply(case))]
async fn a_killed_owner_leaves_no_qemu(scratch: Scratch) {
    let mut owner = exec(&scratch)
        .args(["python", "-c", "import time; time.sleep(1000)"])
        .spawn()
        .expect("an owner");
    let of_owner = owner.id().to_string();
    let qemu = || {
        let output = Command::new("ps").args(["-o", "pid=,args=", "--ppid", &of_owner]).output();
        let text = String::from_utf8(output.expect("ps runs").stdout).expect("text");
        let line = text.lines().find(|line| line.contains("-blockdev"))?;
        line.split_whitespace().next().map(|pid| Path::new("/proc").join(pid))
    };
    eventually("QEMU runs", || qemu().is_some()).await;
    let qemu = qemu().expect("a process");
    owner.kill().expect("it is killed");
    owner.wait().expect("it ends");
    eventually("QEMU is gone", || !qemu.join("exe").exists()).await;
    let left = || scratch.join("pool").read_dir().map_or(0, Iterator::count);
    assert!(left() > 0, "a killed owner can't tidy up");
    let answer = run(cli::overlay_pool(&scratch).arg("gc"));
    assert_eq!(answer.code, Some(0), "{answer}");
    assert_eq!(left(), 0, "{answer}");
}

#[rstest]
#[test_attr(apply(case))]
fn the_bench_measures_boots_and_resumes(scratch: Scratch) {
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    let mut command = bench::command("vm", &scratch);
    command.env("OVERLAY_POOL_IMAGES", images());
    let answer = run(command.args(["--count", "1", "--json", "--accel", accelerator.as_str()]));
    let facts: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let targets = facts["targets"].as_array().expect("targets");
    let missed = targets.iter().any(|target| target["verdict"] == "missed");
    assert_eq!((answer.code, targets.len()), (Some(i32::from(missed)), 4), "{answer}");
    for kind in ["boot", "resume"] {
        let of = |phase: &str| facts["columns"][kind][phase].as_f64().expect("milliseconds");
        let phases = ["overlay_ms", "spawn_ms", "boot_ms", "renew_ms", "execute_ms"];
        let sum: f64 = phases.map(of).iter().sum();
        assert!((sum - of("hello_ms")).abs() < 1e-3, "the phases are all there is: {facts}");
        let share = of(&format!("overlay_percent_of_{kind}"));
        assert!((share * of("hello_ms") - 100.0 * of("overlay_ms")).abs() < 1e-6, "{facts}");
    }
    let left: Vec<_> = scratch.read_dir().expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?} are left");
}
