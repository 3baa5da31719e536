//! Code runs in VMs whose disks come from the pool.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use overlay_pool::Source;
use overlay_pool::vm::{
    End, FileCheck, Language, Manifest, Program, Start, VmError, VmSettings, VmState,
};
use rustix::process::{Signal, kill_process};
use tokio::sync::mpsc;

use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::vms::{assert_no_vm_left, create, execute, images, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator, Need::QemuImg];

#[apply(test)]
async fn a_vm_boots_on_a_pooled_overlay(scratch: Scratch) {
    let settings = VmSettings { resume: false, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let base = manager.base_image(Language::PYTHON).expect("a base image");
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Booted));
    assert_eq!(vm.disk_source(), Some(Source::Pooled));
    assert_eq!(vm.state(), VmState::Ready);
    assert_eq!(prints(&vm, "print('hello from pool')").await, "hello from pool\n");
    assert_eq!(prints(&vm, "open('/root/file', 'w').write('on the overlay')").await, "");

    let kept = scratch.join("kept.qcow2");
    manager.keep_disk(&vm, &kept).await.expect("the disk is kept");
    assert_eq!(vm.state(), VmState::Destroyed);
    qemu::check(&kept);
    let info = qemu::info(&kept);
    let backing = info["backing-filename"].as_str().expect("a backing file");
    assert_eq!(Path::new(backing), base.canonicalize().expect("its path"));
    assert_eq!(info["backing-filename-format"], "qcow2");

    let manifest = Manifest::read(&images()).expect("a manifest");
    let name = base.file_name().expect("a name").to_string_lossy().into_owned();
    let unchanged = manifest.check(&images(), &name).expect("the base image");
    assert_eq!(unchanged, FileCheck::Good, "the VM changed its base image");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// A VM whose disk can't be kept there is as it was: it runs code, and ends with its manager.
#[apply(test)]
async fn a_vm_whose_disk_is_not_kept_stays(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let kept = scratch.join("kept.qcow2");
    std::fs::write(&kept, "precious").expect("a file");
    let error = manager.keep_disk(&vm, &kept).await.expect_err("something is there");
    assert!(error.to_string().contains("kept.qcow2"), "{error}");
    assert_eq!((vm.state(), manager.active_vms().len()), (VmState::Ready, 1));
    assert_eq!(prints(&vm, "print(1)").await, "1\n");
    manager.stop().await;
    assert_eq!(vm.state(), VmState::Destroyed);
    assert_no_vm_left(&scratch).await;
}

/// Of at most four VMs two have their overlays ready; the third's is made on demand.
#[apply(test)]
async fn three_vms_at_once(scratch: Scratch) {
    let settings = VmSettings { max_concurrent_vms: 4, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let create = || create(&manager, Language::PYTHON);
    let (one, two, three) = tokio::join!(create(), create(), create());
    assert_eq!(manager.active_vms().len(), 3);
    let vms = [one, two, three];
    let sources: Vec<_> = vms.iter().filter_map(|vm| vm.disk_source()).collect();
    assert_eq!(sources.iter().filter(|source| **source == Source::Pooled).count(), 2);
    assert_eq!(sources.iter().filter(|source| **source == Source::OnDemand).count(), 1);
    for vm in &vms {
        assert_eq!(prints(vm, "print('hello from pool')").await, "hello from pool\n");
    }
    manager.stop().await;
    assert!(vms.iter().all(|vm| vm.state() == VmState::Destroyed));
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn two_vms_write_to_the_same_place_of_their_base(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let create = || create(&manager, Language::PYTHON);
    let (one, two) = tokio::join!(create(), create());
    let write = |text| format!("import os\nopen('/etc/hosts', 'w').write('{text}')\nos.sync()");
    prints(&one, &write("one")).await;
    prints(&two, &write("two")).await;
    // From the disk, not from the guest's memory.
    let read = "open('/proc/sys/vm/drop_caches', 'w').write('3')\nprint(open('/etc/hosts').read())";
    assert_eq!(prints(&one, read).await, "one\n");
    assert_eq!(prints(&two, read).await, "two\n");
    manager.stop().await;
}

#[apply(test)]
async fn javascript_prints(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::JAVASCRIPT).await;
    let vm = create(&manager, Language::JAVASCRIPT).await;
    assert_eq!(prints(&vm, "console.log('hello from pool')").await, "hello from pool\n");
    manager.stop().await;
}

#[apply(test)]
async fn outputs_and_ends(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;

    let code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(7)";
    let execution = execute(&vm, code).await;
    assert_eq!(execution.end, End::Code(7));
    assert_eq!(
        (execution.stdout.text(), execution.stderr.text()),
        ("out\n".into(), "err\n".into())
    );
    assert!(!execution.stdout.truncated && !execution.stderr.truncated);

    let code = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)";
    assert_eq!(execute(&vm, code).await.end, End::Signal(15));

    // More than one argument of a program may hold.
    let code = format!("text = '{}'\nprint(len(text))", "x".repeat(1 << 20));
    assert_eq!(prints(&vm, &code).await, format!("{}\n", 1 << 20));

    let execution = execute(&vm, "print('x' * (10 << 20))").await;
    assert_eq!(execution.end, End::Code(0));
    assert_eq!(execution.stdout.bytes, vec![b'x'; 1 << 20]);
    assert!(execution.stdout.truncated, "it is said to be cut");

    let execution = execute(&vm, "1 +").await;
    assert_eq!(execution.end, End::Code(1));
    assert!(execution.stderr.text().contains("SyntaxError"));

    let execution = execute(&vm, "def f():\n    raise ValueError\nf()").await;
    let trace = execution.stderr.text();
    let lines: Vec<_> = trace.lines().filter(|line| line.contains("File \"")).collect();
    assert_eq!(
        lines,
        ["  File \"<string>\", line 3, in <module>", "  File \"<string>\", line 2, in f"],
        "the program's own lines, none of what ran it"
    );
    manager.stop().await;
}

#[apply(test)]
async fn a_time_out_kills_what_runs_and_leaves_the_vm_usable(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    prints(&vm, "").await;
    let left = "import os\nnames = [open(f'/proc/{pid}/comm').read() for pid in os.listdir('/proc')\
                if pid.isdigit()]\nprint('sleep\\n' in names)";

    let code = "import subprocess\nprint('begun', flush=True)\nsubprocess.run(['sleep', '1000'])";
    let begun = vm.execute(code, Some(Duration::from_secs(8))).await.expect("an end");
    assert_eq!(begun.end, End::TimedOut);
    assert_eq!(begun.stdout.text(), "begun\n", "what it wrote by then");
    assert_eq!(prints(&vm, left).await, "False\n");

    // One that left its process group has the output open, and is killed all the same.
    let code = "import subprocess\nsubprocess.run(['setsid', 'sleep', '1000'])";
    let escaped = vm.execute(code, Some(Duration::from_secs(8))).await.expect("an end");
    assert_eq!(escaped.end, End::TimedOut);
    assert_eq!(prints(&vm, left).await, "False\n");

    // One whose caller went away is killed by the next call.
    let code = "import time\ntime.sleep(1000)";
    let dropped = tokio::time::timeout(Duration::from_secs(1), vm.execute(code, None)).await;
    dropped.expect_err("it sleeps");
    assert_eq!(vm.state(), VmState::Ready);
    assert_eq!(prints(&vm, "print('usable')").await, "usable\n");
    manager.stop().await;
}

/// A file that is given up half way has all be killed, the interpreter that waits too: that isn't
/// given the next program.
#[apply(test)]
async fn a_program_after_a_dropped_file_runs(
    scratch: Scratch,
    #[values(Language::PYTHON, Language::JAVASCRIPT)] language: Language,
) {
    let manager = started(settings(&scratch), language).await;
    let vm = create(&manager, language).await;
    let code = if language == Language::PYTHON { "print('ran')" } else { "console.log('ran')" };
    for _ in 0..5 {
        assert_eq!(prints(&vm, code).await, "ran\n");
        let put = vm.put_file("/root/file", 0o600, b"bytes");
        assert!(put.now_or_never().is_none(), "it is asked for, and not yet answered");
    }
    assert_eq!(prints(&vm, code).await, "ran\n");
    manager.stop().await;
}

#[apply(test)]
async fn one_code_at_a_time(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let busy = tokio::spawn({
        let vm = vm.clone();
        async move { vm.execute("import time\ntime.sleep(1000)", None).await }
    });
    eventually("code runs", || vm.state() == VmState::Executing).await;
    let refused = vm.execute("print()", None).await.expect_err("it is busy");
    assert!(matches!(refused, VmError::NotReady { state: VmState::Executing, .. }), "{refused}");
    // Destroyed meanwhile, the caller hears of it.
    manager.destroy_vm(&vm).await;
    let ended = busy.await.expect("no panic").expect_err("the VM is gone");
    assert!(matches!(ended, VmError::NotReady { .. }), "{ended}");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_stopped_qemu_is_given_up(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let pid = i32::try_from(vm.pid().expect("a process")).expect("a PID");
    let pid = rustix::process::Pid::from_raw(pid).expect("a PID");
    kill_process(pid, Signal::STOP).expect("it is stopped");
    let error = vm.execute("print()", Some(Duration::from_secs(1))).await.expect_err("no answer");
    assert!(matches!(error, VmError::Guest { .. }), "{error}");
    assert_eq!(vm.state(), VmState::Destroyed);
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_program_gets_what_it_is_given(
    scratch: Scratch,
    #[values(Language::PYTHON, Language::JAVASCRIPT)] language: Language,
) {
    let manager = started(settings(&scratch), language).await;
    let vm = create(&manager, language).await;
    let code = match language {
        Language::JAVASCRIPT => {
            "const fs = require('fs'); const [, ...args] = process.argv.slice(1);
console.log(args.join(' '), process.env.MODE, fs.readFileSync(0).length)"
        }
        _ => {
            "import os, sys
print(*sys.argv[1:], os.environ['MODE'], len(sys.stdin.buffer.read()))"
        }
    };
    let said = async |program: Program| {
        // More than a window of it.
        let (input, mut parts) = (vec![b'x'; 300_000], mpsc::channel(4));
        let (outcome, text) = tokio::join!(vm.run(&program, &input[..], parts.0), async {
            let mut text = Vec::new();
            while let Some((_, part)) = parts.1.recv().await {
                text.extend(part);
            }
            String::from_utf8(text).expect("text")
        });
        assert_eq!(outcome.expect("an end").end, End::Code(0), "{text}");
        text
    };
    let program = Program::new(code).argument("one").argument("two words").variable("MODE", "test");
    assert_eq!(said(program.clone()).await, "one two words test 300000\n");
    // An interpreter that waits has started without this one.
    let early = match language {
        Language::JAVASCRIPT => ("NODE_OPTIONS", "--no-warnings"),
        _ => ("PYTHONHASHSEED", "0"),
    };
    assert_eq!(said(program.variable(early.0, early.1)).await, "one two words test 300000\n");
    manager.stop().await;
}

#[apply(test)]
async fn files_go_in_and_come_out(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let bytes: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    vm.put_file("/root/in", 0o640, &bytes).await.expect("a file goes in");
    let code = "import os\nprint(oct(os.stat('in').st_mode))\n\
                open('out', 'wb').write(open('in', 'rb').read()[::-1])";
    assert_eq!(prints(&vm, code).await, "0o100640\n");
    let mut out = vm.get_file("/root/out", 200_000).await.expect("a file comes out");
    out.reverse();
    assert!(out == bytes);
    for (path, limit, why) in
        [("/root/out", 199_999, "too large"), ("/none", 1, "No such file"), ("/root", 1, "Invalid")]
    {
        let error = vm.get_file(path, limit).await.expect_err(path).to_string();
        assert!(error.to_lowercase().contains(&why.to_lowercase()), "{error}");
    }
    vm.put_file("/none/in", 0o600, &bytes).await.expect_err("no such directory");
    // Nobody reads from it, and the supervisor doesn't wait for anybody.
    prints(&vm, "import os\nos.mkfifo('/root/fifo')").await;
    vm.put_file("/root/fifo", 0o600, &bytes).await.expect_err("no file");
    assert_eq!(prints(&vm, "print('usable')").await, "usable\n");
    manager.stop().await;
}
