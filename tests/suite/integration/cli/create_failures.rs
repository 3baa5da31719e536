//! `create`: rules A7 and L7 from outside, and what a failure says.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::names;
use crate::harness::cli::{answer, assert_answer, overlay_pool, overlay_pool_after, run};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

#[apply(test)]
#[case::missing_base("missing_base", 3, &["nowhere", "vm-1", "vm-2"])]
#[case::directory_as_base("directory_as_base", 3, &[".", "vm"])]
#[case::base_is_not_qcow2("base_is_not_qcow2", 3, &["disk.img", "vm"])]
#[case::base_refers("base_refers", 3, &["overlay.qcow2", "vm"])]
#[case::smaller_than_base("smaller_than_base", 3, &["--size", "512k", "base.qcow2", "vm"])]
#[case::larger_than_qcow2("larger_than_qcow2", 3, &["--size", "5P", "base.qcow2", "vm"])]
#[case::no_directory("no_directory", 1, &["base.qcow2", "nowhere/vm", "nowhere/vm"])]
#[case::no_file_s_name("no_file_s_name", 1, &["base.qcow2", "vm/"])]
#[case::a_size_as_a_target("a_size_as_a_target", 2, &["base.qcow2", "vm", "20G"])]
#[case::target_is_a_directory("target_is_a_directory", 4, &["base.qcow2", "."])]
#[case::first_failure_counts("first_failure_counts", 4, &["base.qcow2", ".", "nowhere/vm"])]
#[case::first_failure_counts_again("first_failure_counts_again", 1, &["base.qcow2", "nowhere/vm", "."])]
#[case::same_target_twice("same_target_twice", 4, &["base.qcow2", "vm-twice", "vm-twice"])]
fn a7_failures_say_what_to_do(
    #[with(1)] stage: Stage,
    #[case] name: &str,
    #[case] code: i32,
    #[case] args: &[&str],
) {
    Image::new(1 << 20).backing(b"/etc/passwd").write(&stage.join("overlay.qcow2"));
    fs::write(stage.join("disk.img"), [0; 512]).expect("a raw image");

    let failed = answer(&stage, ["create"].iter().chain(args));
    assert_eq!(failed.code, Some(code), "{failed}");
    assert!(failed.stderr.lines().all(|line| line.starts_with("overlay-pool: ")), "{failed}");
    assert_answer!(stage, format!("create_{name}"), failed);
    assert!(!stage.join("vm").exists() && !stage.join("vm-1").exists());
}

#[apply(test)]
fn l7_missing_creator_has_its_exit_code(
    stage: Stage,
    #[values("storage-daemon", "qemu-img")] creator: &str,
) {
    let mut command = overlay_pool(&stage);
    command.env("PATH", stage.join("empty"));
    let failed = run(command.args(["create", "--creator", creator, "base.qcow2", "vm"]));
    assert_eq!(failed.code, Some(5));
    assert_answer!(stage, format!("create_without_{creator}"), failed);
    assert_eq!(names(&stage), ["base.qcow2"]);
}

#[apply(test)]
fn hostile_names_are_one_escaped_line(scratch: Scratch) {
    let name = b"/\x1b[31m\n\x9b2J\xe2\x80\xae";
    Image::new(1 << 20).backing(name).write(&scratch.join("overlay.qcow2"));
    let failed = answer(&scratch, ["create", "overlay.qcow2", "vm"]);
    let printed: Vec<char> = failed.stderr.chars().filter(|char| char.is_control()).collect();
    assert_eq!(printed, ['\n'], "{failed}");
    assert_answer!(scratch, "create_hostile_name", failed);
}

/// `create` while its `qemu-img` runs, a real program that never ends.
async fn hanging_create(stage: &Stage) -> Child {
    let bin = stage.join("bin");
    fs::create_dir(&bin).expect("a directory");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit\necho $$ >{0}/pid\nmv {0}/pid {0}/started\n\
         exec sleep 1000\n",
        stage.display()
    );
    fs::write(bin.join("qemu-img"), script).expect("a program");
    fs::set_permissions(bin.join("qemu-img"), Permissions::from_mode(0o755)).expect("its mode");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));

    let mut command = overlay_pool(stage);
    command.env("PATH", path).args(["create", "--creator", "qemu-img", "base.qcow2", "vm"]);
    let create = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    eventually("qemu-img runs", || stage.join("started").exists()).await;
    create
}

async fn nothing_is_left(stage: &Stage) {
    let pid = fs::read_to_string(stage.join("started")).expect("its PID");
    let state = Path::new("/proc").join(pid.trim()).join("cmdline");
    // A zombie that nobody reaps has no command line either.
    eventually("qemu-img is gone", || {
        fs::read(&state).is_ok_and(|line| line.is_empty()) || !state.exists()
    })
    .await;
    assert_eq!(names(stage), ["base.qcow2", "bin", "started"]);
}

#[apply(test)]
async fn a7_killed_while_creating_leaves_nothing(stage: Stage) {
    let mut create = hanging_create(&stage).await;
    create.kill().expect("SIGKILL");
    create.wait().expect("it ends");
    nothing_is_left(&stage).await;
}

#[apply(test)]
#[case(Signal::INT, 130)]
#[case(Signal::TERM, 143)]
async fn a12_interrupted_it_says_so_and_leaves_nothing(
    stage: Stage,
    #[case] signal: Signal,
    #[case] code: i32,
) {
    let create = hanging_create(&stage).await;
    kill_process(Pid::from_child(&create), signal).expect("a signal is sent");
    let output = create.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(output.stderr, b"overlay-pool: interrupted\n");
    nothing_is_left(&stage).await;
}

#[apply(test)]
fn json_tells_what_was_made_and_what_was_not(stage: Stage) {
    fs::write(stage.join("vm-2"), "precious").expect("a file in the way");
    let created = answer(&stage, ["create", "--json", "base.qcow2", "vm-1", "vm-2", "vm-3"]);
    assert_answer!(stage, "create_json", created);
    assert!(stage.join("vm-1").is_file() && stage.join("vm-3").is_file());
}

/// Whoever found it out: the same words, the same code, the same thing to do.
#[apply(test)]
#[needs(MountNamespace, QemuImg, StorageDaemon)]
fn a7_a_full_disk_says_so_with_every_creator(
    #[with(1)] stage: Stage,
    #[values("native", "qemu-img", "storage-daemon")] creator: &str,
) {
    fs::create_dir(stage.join("full")).expect("a directory");
    let setup = "mount -t tmpfs -o size=64k tmpfs full && ! cat /dev/zero >full/zeros 2>/dev/null";
    let mut create = overlay_pool_after(setup, &stage);
    let failed = run(create.args(["create", "--creator", creator, "base.qcow2", "full/vm"]));
    assert_eq!(failed.code, Some(1), "{failed}");
    let cause = "base.qcow2: can't write: No space left on device (os error 28); make room there\n";
    assert!(failed.stderr.ends_with(cause), "{failed}");
}
