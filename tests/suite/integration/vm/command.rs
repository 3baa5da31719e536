//! `overlay-pool exec`.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use overlay_pool::vm::VmSettings;
use serde_json::Value;

use crate::harness::bench;
use crate::harness::cli::{self, run};
use crate::harness::prelude::*;
use crate::harness::vms::{exec, exec_by, images};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

#[apply(test)]
fn hello_from_pool(scratch: Scratch) {
    let answer = run(exec(&scratch).args(["python", "-c", "print('hello from pool')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello from pool\n"), "{answer}");
    assert_eq!(answer.stderr, "");

    let code = "import sys\nprint('out'); print('err', file=sys.stderr); sys.exit(3)";
    std::fs::write(scratch.join("code.py"), code).expect("a file");
    let kept = scratch.join("kept.qcow2");
    let answer = run(exec(&scratch).arg("--keep").arg(&kept).args(["python", "code.py"]));
    let said = (answer.code, &*answer.stdout, &*answer.stderr);
    assert_eq!(said, (Some(3), "out\n", "err\n"), "{answer}");
    assert!(kept.is_file());
    let left = scratch.join("pool");
    assert!(!left.exists(), "{:?} are left", left.read_dir().map(Vec::from_iter));
}

#[apply(test)]
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

#[apply(test)]
fn arguments_input_and_environment(scratch: Scratch) {
    std::fs::write(
        scratch.join("code.py"),
        "import os, sys\nprint(sys.argv, os.environ['A'], input())",
    )
    .expect("a file");
    std::fs::write(scratch.join("data"), "data\n").expect("a file");
    let mut command = exec(&scratch);
    command.args(["--env", "A=b", "py", "code.py", "-x", "--json"]);
    command.stdin(std::fs::File::open(scratch.join("data")).expect("a file"));
    let answer = run(&mut command);
    assert_eq!(answer.stdout, "['code.py', '-x', '--json'] b data\n", "{answer}");
    assert_eq!(answer.code, Some(0), "{answer}");
}

#[apply(test)]
fn limits_are_named(scratch: Scratch) {
    let code = "print('begun')\nimport time\ntime.sleep(1000)";
    let answer = run(exec(&scratch).args(["--timeout", "20", "python", "-c", code]));
    assert_eq!((answer.code, &*answer.stdout), (Some(124), "begun\n"), "{answer}");
    assert!(answer.stderr.contains("killed after 20 s") && answer.stderr.contains("--timeout"));

    let code = "print('x' * 100)";
    let mut command = exec(&scratch);
    command.env("OVERLAY_POOL_MAX_OUTPUT", "10").args(["python", "-c", code]);
    let answer = run(&mut command);
    assert_eq!(answer.stdout, "x".repeat(10));
    assert!(answer.stderr.contains("cut after 10 bytes"), "{answer}");
}

#[apply(test)]
fn an_interrupt_ends_it_with_what_came(scratch: Scratch) {
    let code = "print('begun')\nimport time\ntime.sleep(1000)";
    let mut command = exec(&scratch);
    command.args(["python", "-c", code]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "begun\n", "it comes as it is written");
    let pid = i32::try_from(child.id()).expect("a PID");
    let pid = rustix::process::Pid::from_raw(pid).expect("a PID");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is interrupted");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(scratch.join("pool").read_dir().map_or(0, Iterator::count), 0);
}

/// A state that is damaged is removed, the VM boots, and that is said; the next one saves another.
#[apply(test)]
fn a_damaged_state_is_told(scratch: Scratch) {
    let hello = || {
        let mut command = exec(&scratch);
        command.env("OVERLAY_POOL_STATES", scratch.join("states"));
        run(command.args(["python", "-c", "print('hello')"]))
    };
    let said = |answer: &cli::Answer| answer.stderr.contains("no saved state could be resumed");
    assert!(!said(&hello()));
    let entries = scratch.join("states").read_dir().expect("a folder").flatten();
    let state = entries.map(|entry| entry.path()).find(|path| path.is_dir()).expect("a state");
    // Truncated, as a disk that was full or a copy that was cut off leaves it.
    let (ram, private) = (state.join("ram"), Permissions::from_mode(0o600));
    std::fs::set_permissions(&ram, private).expect("a mode");
    let file = std::fs::File::options().write(true).open(&ram).expect("the state");
    file.set_len(file.metadata().expect("its length").len() / 2).expect("truncated");
    let answer = hello();
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello\n"), "{answer}");
    assert!(said(&answer), "{answer}");
    assert!(!ram.exists());
    let answer = hello();
    assert!(!said(&answer), "{answer}");
}

/// The host's disk is full: that is said, and at once.
#[apply(test)]
#[needs(MountNamespace)]
fn a_host_without_space_is_named(scratch: Scratch) {
    let pool = scratch.join("pool");
    std::fs::create_dir(&pool).expect("a folder");
    let setup = format!("mount -t tmpfs -o size=16m tmpfs {}", pool.display());
    let mut command = exec_by(cli::overlay_pool_after(&setup, &scratch));
    command.args(["python", "-c"]);
    let code = "import os\nwith open('/root/file', 'wb') as file:\n  for _ in range(64):\n    \
                file.write(os.urandom(1 << 20))\n  os.fsync(file.fileno())\nprint('written')";
    let answer = run(command.arg(code));
    assert_eq!((answer.code, &*answer.stdout), (Some(125), ""), "{answer}");
    assert!(answer.stderr.contains("no space is left in"), "{answer}");
}

#[apply(test)]
fn what_keeps_code_from_running(scratch: Scratch) {
    let answer = run(exec(&scratch).args(["python", "missing.py"]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("missing.py"), "{answer}");
    let answer = run(exec(&scratch).args(["python", "print('hello')"]));
    assert!(answer.stderr.contains("give code with -c"), "{answer}");
    std::fs::write(scratch.join("kept.qcow2"), "").expect("a file");
    let answer = run(exec(&scratch).args(["--keep", "kept.qcow2", "python", "-c", "print()"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(4), ""), "{answer}");
    let code = ["python", "-c", "print('it ran')"];
    let answer = run(exec(&scratch).args(["--keep", "missing/kept.qcow2"]).args(code));
    assert_eq!((answer.code, &*answer.stdout), (Some(125), ""), "{answer}");
    assert!(answer.stderr.contains("/missing is missing; choose another --keep"), "{answer}");
    // Where no file can be made, code doesn't run in vain.
    for target in [&*"x".repeat(256), "/proc/kept.qcow2", "code.py/kept.qcow2", "."] {
        std::fs::write(scratch.join("code.py"), "").expect("a file");
        let answer = run(exec(&scratch).args(["--keep", target]).args(code));
        let code = if target == "." { 4 } else { 125 };
        assert_eq!((answer.code, &*answer.stdout), (Some(code), ""), "{answer}");
        assert!(answer.stderr.contains("choose another --keep"), "{answer}");
    }
    let answer = run(exec(&scratch).args(["raw", "-c", "true"]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("no base image of raw"), "{answer}");
    assert!(answer.stderr.contains("put one of your own there"), "{answer}");
    let answer = run(exec(&scratch).env("OVERLAY_POOL_MEMORY", "much").args(["python", "-c", ""]));
    assert_eq!(answer.code, Some(2), "{answer}");
    assert!(answer.stderr.contains("OVERLAY_POOL_MEMORY=\"much\""), "{answer}");
}

/// What a program printed is there, though its disk can't be kept since something has got in the way.
#[apply(test)]
fn what_was_printed_is_there_without_a_kept_disk(scratch: Scratch) {
    let kept = scratch.join("kept.qcow2");
    let mut command = exec(&scratch);
    command.arg("--keep").arg(&kept).args([
        "python",
        "-c",
        "print('begun'); input(); print('end')",
    ]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut output = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    std::fs::write(&kept, "precious").expect("a file");
    child.stdin.take().expect("its input").write_all(b"\n").expect("a line");
    output.read_to_string(&mut line).expect("its output");
    let answer = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&answer.stderr);
    assert_eq!((answer.status.code(), &*line), (Some(125), "begun\nend\n"), "{said}");
    assert!(said.contains("kept.qcow2"), "{said}");
    assert_eq!(std::fs::read(&kept).expect("a file"), b"precious");
}

/// One that resumes nothing is told by its version, and no boot is spent on a try.
#[apply(test)]
fn qemu_that_resumes_nothing_is_started_once(scratch: Scratch) {
    let bin = scratch.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let (starts, usual) = (scratch.join("starts"), std::env::var("PATH").expect("a PATH"));
    let script = format!(
        "#!/bin/sh
         case $1 in --version) echo 'QEMU emulator version 7.2.19 (Debian)'; exit;; esac
         echo >>'{}'
         PATH='{usual}'
         exec qemu-system-x86_64 \"$@\"\n",
        starts.display()
    );
    let program = bin.join("qemu-system-x86_64");
    std::fs::write(&program, script).expect("a program");
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("a mode");
    let mut command = exec(&scratch);
    command.env("PATH", format!("{}:{usual}", bin.display()));
    command.env("OVERLAY_POOL_STATES", scratch.join("states"));
    let answer = run(command.args(["python", "-c", "print('hello')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello\n"), "{answer}");
    assert_eq!(std::fs::read_to_string(&starts).expect("it was started"), "\n");
}

/// QEMU dies with its owner, however that ends; the next owner removes what it left.
#[apply(test)]
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

#[apply(test)]
fn the_bench_measures_each_way_to_a_vm(scratch: Scratch) {
    let accelerator = VmSettings::from_env().expect("a good environment").accelerator;
    let mut command = bench::command("vm", &scratch);
    command.env("OVERLAY_POOL_IMAGES", images()).args(["--accel", accelerator.as_str()]);
    // Each VM takes seconds under TCG, and both languages go the same ways.
    command.args(["--count", "1", "--waiting", "1", "--seconds", "1", "--language", "python"]);
    let answer = run(command.arg("--json"));
    let facts: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    let targets = facts["targets"].as_array().expect("targets");
    let missed = targets.iter().any(|target| target["verdict"] == "missed");
    assert_eq!((answer.code, targets.len()), (Some(i32::from(missed)), 9), "{answer}");
    assert!(facts["node"].is_null(), "{facts}");
    let of = |name: &str| facts["python"][name].as_f64().expect("a figure");
    for figure in
        ["boot_ms", "miss_ms", "warm_ms", "exec_ms", "exec_server_ms", "http_ms", "pss_mib"]
    {
        assert!(of(figure) > 0.0, "{facts}");
    }
    assert!((of("boot_by_warm") * of("warm_ms") - of("boot_ms")).abs() < 1e-3, "{facts}");
    let parts = ["overlay_ms", "spawn_ms", "load_ms", "renew_ms"].map(of).iter().sum::<f64>();
    assert!(parts <= of("miss_ms"), "what the creation took is a part of it: {facts}");
    let load = |name: &str| facts["load"][name].as_f64().expect("a figure");
    assert_eq!((load("asks_at_1"), load("asks_at_10")), (1.0, 10.0), "{facts}");
    assert_eq!((load("failures_at_1"), load("failures_at_10")), (0.0, 0.0), "{facts}");
    let left: Vec<_> = scratch.read_dir().expect("a folder").flatten().collect();
    assert!(left.is_empty(), "{left:?} are left");
}
