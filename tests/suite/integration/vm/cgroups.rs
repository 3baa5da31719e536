//! Each VM's cgroup: what it limits, and that it goes with its VM.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cli::{overlay_pool, run};
use crate::harness::delegated::Delegated;
use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::vm_server::{self, begin, execute, next, until_ready};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] =
    &[Need::DelegatedCgroup, Need::QemuSystem, Need::GuestImages, Need::Accelerator];

const SLEEPS: &str = "print('begun', flush=True)\nimport time\ntime.sleep(1000)";

fn python(code: &str) -> Value {
    json!({ "language": "python", "code": code })
}

/// A server in a cgroup that it may divide.
#[track_caller]
fn start(scratch: &Path, cgroup: &Delegated, args: &[&str]) -> Server {
    let mut command = vm_server::command(scratch, 3);
    let mut server = Server::launch(scratch, &mut cgroup.command(command.args(args)));
    server.await_ready();
    server
}

fn read(cgroup: &Path, name: &str) -> String {
    fs::read_to_string(cgroup.join(name)).expect("a file of a cgroup").trim().to_owned()
}

#[apply(test)]
async fn a_vm_is_limited(scratch: Scratch) {
    let cgroup = Delegated::new().expect("a cgroup");
    let server = start(&scratch, &cgroup, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    for what in ["memory", "processors", "processes"] {
        let said = format!("VMs' {what}: limited");
        assert!(server.log().contains(&said), "{said}: {}", server.log());
    }
    let (_client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    let qemus = server.children();
    assert!(!qemus.is_empty());
    for pid in qemus.into_keys() {
        let vm = cgroup.of(pid);
        let memory: u64 = read(&vm, "memory.max").parse().expect("a number");
        // The guest's 128 MiB, and what QEMU needs.
        assert!((128 << 20..=1 << 30).contains(&memory), "{memory}");
        assert_eq!(read(&vm, "cpu.max"), "200000 100000");
        assert_eq!(read(&vm, "pids.max"), "129");
        let files = vm.read_dir().expect("a cgroup").flatten();
        let swaps = files.filter(|file| file.file_name() == "memory.swap.max").count() > 0;
        assert!(!swaps || read(&vm, "memory.swap.max") == "0");
    }
    server.stop();
    assert_eq!(cgroup.vms(), Vec::<std::path::PathBuf>::new());
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn it_goes_with_its_vm(scratch: Scratch) {
    let cgroup = Delegated::new().expect("a cgroup");
    let server = start(&scratch, &cgroup, &[]);
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    eventually("its cgroup is gone", || cgroup.vms().is_empty()).await;
    // Its client goes away.
    let (client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    assert_eq!(cgroup.vms().len(), 1);
    drop(client);
    eventually("its cgroup is gone", || cgroup.vms().is_empty()).await;
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// The kernel kills QEMU, and the caller learns what for.
#[apply(test)]
async fn a_vm_that_needs_more_memory_than_it_may_have(scratch: Scratch) {
    let cgroup = Delegated::new().expect("a cgroup");
    let server = start(&scratch, &cgroup, &[]);
    let (mut client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    let vms = cgroup.vms();
    assert_eq!(vms.len(), 1, "{vms:?}");
    fs::write(vms[0].join("memory.max"), "4M").expect("it is written");
    let mut last = Value::Null;
    while let Some(event) = next(&mut client) {
        last = event;
    }
    assert_eq!(
        (&last["event"], &last["problem"]["error"]),
        (&json!("failed"), &json!("vm-failed"))
    );
    let detail = last["problem"]["detail"].as_str().expect("a detail");
    let why = "QEMU needed more memory than the 4 MiB that its cgroup allows";
    assert!(detail.contains("SIGKILL") && detail.contains(why), "{detail}");
    eventually("its cgroup is gone", || cgroup.vms().is_empty()).await;
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// What it could not remove the next server does, or `gc`; those of a live server stay.
#[apply(test)]
#[case::by_the_next_server(false)]
#[case::by_gc(true)]
async fn those_of_a_killed_server_are_removed(scratch: Scratch, #[case] gc: bool) {
    let cgroup = Delegated::new().expect("a cgroup");
    let server = start(&scratch, &cgroup, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    let left = cgroup.vms();
    assert_eq!(left.len(), 1, "{left:?}");
    let sweep = |args: &[&str]| run(overlay_pool(&scratch).arg("gc").args(args));
    let live = sweep(&[]);
    assert!(!live.stdout.contains("overlay-pool-vm-"), "{live}");
    assert_eq!(cgroup.vms(), left);
    server.signal(Signal::KILL);
    drop(server);
    let shown = left[0].display().to_string();
    let found = sweep(&["--dry-run"]);
    assert!(found.stdout.contains(&format!("would remove {shown}\n")), "{found}");
    if gc {
        let removed = sweep(&[]);
        assert!(removed.stdout.contains(&format!("removed {shown}\n")), "{removed}");
        assert_eq!(cgroup.vms(), Vec::<std::path::PathBuf>::new());
    }
    let server = start(&scratch, &cgroup, &[]);
    assert!(!left[0].exists());
    assert_eq!(execute(&server, &python("print('well')")).printed(), "well\n");
    server.stop();
    assert_eq!(cgroup.vms(), Vec::<std::path::PathBuf>::new());
    assert_no_vm_left(&scratch).await;
}

/// Who says that it shall not move isn't moved.
#[apply(test)]
fn a_server_that_shall_not_divide_its_cgroup(scratch: Scratch) {
    let cgroup = Delegated::new().expect("a cgroup");
    let mut command = vm_server::command(&scratch, 2);
    command.env("OVERLAY_POOL_CGROUP", "off");
    let mut server = Server::launch(&scratch, &mut cgroup.command(&command));
    server.await_ready();
    assert!(server.log().contains("OVERLAY_POOL_CGROUP=off"), "{}", server.log());
    let (_client, _) = begin(&server, "/v1/execute", &python(SLEEPS));
    assert_eq!(cgroup.vms(), Vec::<std::path::PathBuf>::new());
    server.stop();
}
