//! What holds a QEMU whose guest has broken out, as the kernel tells it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use overlay_pool::vm::{Language, Measure, Start, VmError, VmManager, VmSettings, containment};
use rustix::process::{Signal, geteuid};

use crate::harness::cli::{overlay_pool, run};
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::Server;
use crate::harness::vm_server;
use crate::harness::vms::{assert_no_vm_left, create, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// The user of the number [`SOMEBODY`].
const NOBODY: &str = "nobody";

/// What `/proc` says of a process or of one of its threads.
#[track_caller]
fn status(process: &Path, name: &str) -> String {
    let text = fs::read_to_string(process.join("status")).expect("it runs");
    let of = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    text.lines().find_map(of).unwrap_or_else(|| panic!("no {name}: {text}"))
}

/// A limit of a process, which can't be raised.
#[track_caller]
fn limit(process: &Path, name: &str) -> String {
    let text = fs::read_to_string(process.join("limits")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
    let [soft, hard] = [0, 1].map(|at| line.split_whitespace().nth(at).expect("a number"));
    assert_eq!(soft, hard, "{line}");
    hard.to_owned()
}

/// The files that a process has open, but for those without a name.
fn open_files(process: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(process.join("fd")).expect("it runs").flatten();
    let files = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut files: Vec<_> = files
        .filter(|file| {
            file.is_absolute() && !file.starts_with("/dev") && !file.starts_with("/memfd:")
        })
        .collect();
    files.sort();
    files.dedup();
    files
}

fn process(pid: Option<u32>) -> PathBuf {
    format!("/proc/{}", pid.expect("a process")).into()
}

#[apply(test)]
async fn the_sandbox_is_in_force_on_each_thread(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    // By now the threads run that write to the disk.
    assert_eq!(prints(&vm, "open('/root/file', 'w').write('x')\nprint('well')").await, "well\n");
    let process = process(vm.pid());
    let threads: Vec<_> = fs::read_dir(process.join("task")).expect("threads").flatten().collect();
    assert!(threads.len() >= 2, "{threads:?}");
    for thread in threads {
        assert_eq!(status(&thread.path(), "Seccomp"), "2");
        assert_eq!(status(&thread.path(), "NoNewPrivs"), "1");
    }
    let options = fs::read(process.join("cmdline")).expect("it runs");
    let options = String::from_utf8_lossy(&options);
    for option in ["obsolete", "elevateprivileges", "spawn", "resourcecontrol"] {
        assert!(options.contains(&format!("{option}=deny")), "{options}");
    }
    manager.stop().await;
}

#[apply(test)]
#[case::of_a_saved_state(true, Start::Resumed)]
#[case::booted(false, Start::Booted)]
async fn limits_and_files(scratch: Scratch, #[case] resume: bool, #[case] start: Start) {
    let settings = VmSettings { resume, disk_mib: 200, ..settings(&scratch) };
    let disk_limit = (200 << 20).to_string();
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(start));
    let process = process(vm.pid());
    assert_eq!(limit(&process, "Max file size"), disk_limit);
    assert_eq!(limit(&process, "Max open files"), "260");
    assert_eq!(limit(&process, "Max core file size"), "0");
    // Nothing that this process was given by whoever started it.
    let names: Vec<_> = open_files(&process)
        .iter()
        .map(|file| file.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    let known = |name: &String| {
        matches!(name.as_str(), "disk.qcow2" | "ram" | "devices")
            || name.starts_with("vmlinuz-")
            || name.starts_with("initramfs-")
            || name.starts_with("python-")
    };
    assert!(names.iter().all(known) && names.contains(&"disk.qcow2".to_owned()), "{names:?}");
    manager.stop().await;
}

/// It owns none of the files, and may open none by its name.
#[apply(test)]
#[needs(Root)]
async fn another_user(scratch: Scratch) {
    let states = scratch.join("states");
    let settings = VmSettings {
        vm_user: Some(NOBODY.to_owned()),
        states_dir: Some(states.clone()),
        ..settings(&scratch)
    };
    let manager = started(settings.clone(), Language::PYTHON).await;
    // The first saves the state that the second is resumed from too.
    for _ in 0..2 {
        let vm = create(&manager, Language::PYTHON).await;
        assert_eq!(vm.start(), Some(Start::Resumed));
        let process = process(vm.pid());
        let all = [SOMEBODY; 4].map(|id| id.to_string()).join("\t");
        assert_eq!(status(&process, "Uid"), all);
        assert_eq!(status(&process, "Gid"), all);
        assert_eq!(status(&process, "Groups"), SOMEBODY.to_string());
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(status(&process, set), "0000000000000000", "{set}");
        }
        let write = "open('/root/file', 'w').write('x')\nprint('well')";
        assert_eq!(prints(&vm, write).await, "well\n");
        for file in open_files(&process) {
            let found = file.metadata().expect("a file");
            let mode = found.permissions().mode();
            assert_eq!(found.uid(), geteuid().as_raw(), "{}", file.display());
            assert_eq!(mode & 0o022, 0, "{}: {mode:o}", file.display());
        }
        manager.destroy_vm(&vm).await;
    }
    manager.stop().await;
    // A server that runs them as itself takes the same state.
    let manager = started(VmSettings { vm_user: None, ..settings }, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    assert_eq!(vm.start(), Some(Start::Resumed));
    manager.stop().await;
    let saved = fs::read_dir(&states).expect("states").flatten().filter(|e| e.path().is_dir());
    assert_eq!(saved.count(), 1);
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
#[case::unknown("no-such-user-here", "no such user")]
#[case::root("root", "it may do all that VMs shall not")]
async fn a_user_who_can_not_be_it(scratch: Scratch, #[case] user: &str, #[case] why: &str) {
    let settings = VmSettings { vm_user: Some(user.to_owned()), ..settings(&scratch) };
    assert!(matches!(containment(&settings), Err(VmError::User { .. })));
    let manager = VmManager::new(settings);
    let error = manager.start().await.expect_err("no such user");
    let text = error.to_string();
    assert!(text.contains(user) && text.contains(why) && text.contains("--vm-user"), "{text}");
    assert!(!manager.is_started());
    let serve = run(vm_server::command(&scratch, 1).args(["--vm-user", user]));
    assert!(serve.code == Some(1) && serve.stderr.contains(why), "{serve}");
    let doctor = run(overlay_pool(&scratch).arg("doctor").env("OVERLAY_POOL_VM_USER", user));
    assert!(doctor.code == Some(1) && doctor.stdout.contains(why), "{doctor}");
    assert_no_vm_left(&scratch).await;
}

/// Only this process could open the file for it.
#[apply(test)]
#[needs(Root)]
async fn a_kernel_that_the_user_may_not_read(scratch: Scratch) {
    let kernel = scratch.join("kernel");
    fs::copy(settings(&scratch).kernel(), &kernel).expect("a copy");
    fs::set_permissions(&kernel, PermissionsExt::from_mode(0o600)).expect("a mode");
    let settings = VmSettings {
        vm_user: Some(NOBODY.to_owned()),
        kernel_path: Some(kernel.clone()),
        resume: false,
        ..settings(&scratch)
    };
    let manager = started(settings, Language::PYTHON).await;
    let create = manager.create_vm(Language::PYTHON, "tenant", "task");
    let error = create.await.expect_err("no VM").to_string();
    assert!(error.contains("nobody, whom QEMU runs as, may not read it"), "{error}");
    assert!(error.contains(kernel.to_str().expect("a plain path")), "{error}");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// What `serve` says at its start and `doctor` later is what the library tells.
#[apply(test)]
async fn what_is_not_in_force_is_said(scratch: Scratch) {
    let told = containment(&settings(&scratch)).expect("no user is named");
    assert!(told.iter().any(|measure| measure.in_force), "{told:?}");
    let server = vm_server::start(&scratch, 1, &[]);
    let log = server.log();
    server.stop();
    let doctor = run(overlay_pool(&scratch).args(["doctor", "--json"]));
    let doctor: serde_json::Value = serde_json::from_str(&doctor.stdout).expect("JSON");
    for Measure { what, in_force, found, advice, .. } in told {
        assert_eq!(in_force, advice.is_empty(), "{what}: {found}");
        let of = |line: &&str| line.contains(&format!("{what}: "));
        let line = log.lines().find(of).unwrap_or_else(|| panic!("nothing of {what}: {log}"));
        assert_eq!(line.contains("WARN"), !in_force, "{line}");
        let findings = doctor["findings"].as_array().expect("findings");
        let finding = findings.iter().find(|finding| finding["what"] == what).expect("a finding");
        assert_eq!(finding["state"], if in_force { "ok" } else { "note" }, "{finding}");
    }
}

/// By the command line, the file of options and the environment. They die with it all the same.
#[apply(test)]
#[needs(Root)]
#[case::option(&["--vm-user", NOBODY], "")]
#[case::file(&["--config", "serve.toml"], "")]
#[case::variable(&[], NOBODY)]
async fn a_server_runs_them_as_a_user(scratch: Scratch, #[case] args: &[&str], #[case] user: &str) {
    fs::write(scratch.join("serve.toml"), format!("vm-user = '{NOBODY}'")).expect("a file");
    let mut command = vm_server::command(&scratch, 2);
    command.args(args).args(["--language", "python=1"]).env("OVERLAY_POOL_VM_USER", user);
    command.env("OVERLAY_POOL_STATES", scratch.join("states"));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    vm_server::until_ready(&server, "python", 1);
    let qemus = server.children();
    assert_eq!(qemus.len(), 1, "{qemus:?}");
    for pid in qemus.keys() {
        let uid = fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
        assert_eq!(uid, SOMEBODY);
    }
    assert!(server.log().contains("QEMU runs as nobody"), "{}", server.log());
    server.signal(Signal::KILL);
    drop(server);
    let is_there = |pid: &i32| Path::new(&format!("/proc/{pid}/exe")).exists();
    eventually("its QEMU is gone", || !qemus.keys().any(is_there)).await;
}
