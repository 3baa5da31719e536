//! `doctor`: a line for each thing, each with what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use overlay_pool::vm::kvm;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::Value;

use crate::harness::cli::{Answer, answer, assert_answer, overlay_pool, overlay_pool_after, run};
use crate::harness::owner::Owner;
use crate::harness::prelude::*;
use crate::harness::server::Server;

const LOOKED_AT: [&str; 19] = [
    "qemu-img",
    "qemu-storage-daemon",
    "qemu-system-x86_64",
    "kvm",
    "guest images",
    "saved states",
    "exec",
    "VMs' sandbox",
    "VMs' user",
    "VMs' memory",
    "VMs' processors",
    "VMs' processes",
    "left-over directories",
    "pool directory",
    "filesystem",
    "unnamed files",
    "free space",
    "openat2",
    "server",
];

/// State and text of the line about `what`.
#[track_caller]
fn line<'a>(doctor: &'a Answer, what: &str) -> (&'a str, &'a str) {
    let found = doctor.stdout.lines().find_map(|line| {
        let (state, rest) = line.split_at_checked(6)?;
        let text = rest.strip_prefix(what)?;
        text.starts_with(' ').then(|| (state.trim_end(), text.trim_start()))
    });
    found.unwrap_or_else(|| panic!("no line about {what}: {doctor}"))
}

#[apply(test)]
fn each_line_has_a_state_and_advice_unless_ok(scratch: Scratch) {
    let doctor = answer(&scratch, ["doctor"]);
    assert_eq!(doctor.stdout.lines().count(), LOOKED_AT.len(), "{doctor}");
    for what in LOOKED_AT {
        let (state, text) = line(&doctor, what);
        assert!(["ok", "note"].contains(&state), "{doctor}");
        assert!(!text.is_empty() && (state == "ok" || text.contains("; ")), "{doctor}");
    }
    assert_eq!((doctor.code, doctor.stderr.as_str()), (Some(0), ""));
    assert!(!scratch.join("pool").exists(), "what was tried is gone");
}

/// What `doctor` says is what the tests' requirements and the library see.
#[apply(test)]
fn findings_are_those_of_the_machine(scratch: Scratch) {
    let doctor = answer(&scratch, ["doctor"]);
    for (what, need) in [
        ("qemu-img", Need::QemuImg),
        ("qemu-storage-daemon", Need::StorageDaemon),
        ("kvm", Need::Kvm),
    ] {
        let expected = if need.probe().is_ok() { "ok" } else { "note" };
        assert_eq!(line(&doctor, what).0, expected, "{what}: {doctor}");
    }
    let kvm = kvm::probe().to_string();
    let (kind, reason) = kvm.split_once(": ").expect("a kind and a reason");
    assert!(line(&doctor, "kvm").1.starts_with(kind), "{doctor}");
    // The reason is a detail; how long it took differs from run to run.
    if Need::Kvm.probe().is_err() {
        assert!(!doctor.stdout.contains(reason), "{doctor}");
        let more = answer(&scratch, ["doctor", "-v"]);
        assert!(more.stdout.contains(&format!("\n      {reason}")), "{more}");
    }
}

#[apply(test)]
fn a_running_server_is_found(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let mut command = overlay_pool(&scratch);
    let doctor = run(command.args(["doctor", "--socket"]).arg(server.socket()));
    let (state, text) = line(&doctor, "server");
    assert!(state == "ok" && text.ends_with("pool.sock: ready"), "{doctor}");
    server.post("/v1/drain", &serde_json::json!({}));
    let doctor = run(&mut command);
    assert_eq!(line(&doctor, "server").0, "note", "{doctor}");
    server.stop();
    let doctor = run(&mut command);
    let (state, text) = line(&doctor, "server");
    assert!(state == "note" && text.contains("overlay-pool serve"), "{doctor}");
}

#[apply(test)]
fn guest_images_and_states_are_looked_at(scratch: Scratch) {
    let doctor = answer(&scratch, ["doctor"]);
    let (state, text) = line(&doctor, "guest images");
    assert!(state == "note" && text.contains("pool/guest-images; build them"), "{doctor}");
    assert_eq!(line(&doctor, "exec").0, "note", "{doctor}");
    assert!(line(&doctor, "saved states").1.ends_with(": none"), "{doctor}");
    fs::create_dir_all(scratch.join("states/key")).expect("a state");
    fs::write(scratch.join("states/key/state"), vec![1; 1 << 20]).expect("its memory");
    let mut command = overlay_pool(&scratch);
    let doctor = run(command.arg("doctor").env("OVERLAY_POOL_STATES", scratch.join("states")));
    let (state, text) = line(&doctor, "saved states");
    assert!(state == "ok" && text.contains("states: 1, 1.0"), "{doctor}");
    let doctor = run(overlay_pool(&scratch).arg("doctor").env("OVERLAY_POOL_MEMORY", "much"));
    assert_eq!((doctor.code, line(&doctor, "exec").0), (Some(1), "bad"), "{doctor}");
}

#[apply(test)]
fn findings_are_json_for_programs(scratch: Scratch) {
    let good = answer(&scratch, ["doctor", "--json"]);
    let facts: Value = serde_json::from_str(&good.stdout).expect("JSON");
    let findings = facts["findings"].as_array().expect("findings");
    let what: Vec<_> = findings.iter().filter_map(|finding| finding["what"].as_str()).collect();
    assert_eq!((what, good.code), (LOOKED_AT.to_vec(), Some(0)), "{good}");
    assert_eq!(facts["failures"], serde_json::json!([]));
    fs::write(scratch.join("pool"), "").expect("a file in its place");
    let bad = answer(&scratch, ["doctor", "--json"]);
    let facts: Value = serde_json::from_str(&bad.stdout).expect("JSON");
    assert_eq!((&facts["failures"][0]["exit_code"], bad.code), (&1.into(), Some(1)), "{bad}");
}

#[apply(test)]
#[needs(QemuImg)]
fn a_program_is_told_with_its_version(scratch: Scratch) {
    let (doctor, version) = (answer(&scratch, ["doctor"]), Need::QemuImg.probe());
    let told = line(&doctor, "qemu-img").1;
    assert!(!told.is_empty() && version.as_ref().is_ok_and(|v| v.ends_with(told)), "{doctor}");
}

#[apply(test)]
fn missing_and_broken_programs_are_notes(scratch: Scratch) {
    let bin = scratch.join("bin");
    fs::create_dir(&bin).expect("a directory");
    let broken = bin.join("qemu-storage-daemon");
    fs::write(&broken, "#!/bin/sh\necho version 1\nexit 1\n").expect("a program that fails");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("its permissions");

    let doctor = run(overlay_pool(&scratch).arg("doctor").env("PATH", &bin));
    assert_eq!(doctor.code, Some(0));
    let programs: Vec<&str> = doctor.stdout.lines().take(3).collect();
    assert_answer!(scratch, "doctor_programs", programs.join("\n"));
}

#[apply(test)]
fn l8_a_pool_directory_that_can_t_be_made_is_bad(scratch: Scratch) {
    fs::write(scratch.join("pool"), "").expect("a file in its place");
    let doctor = answer(&scratch, ["doctor"]);
    assert_eq!(line(&doctor, "pool directory").0, "bad");
    let bad = doctor.stdout.lines().filter(|line| line.starts_with("bad")).collect::<Vec<_>>();
    let shown = format!("{}\n{}exit code: {:?}", bad.join("\n"), doctor.stderr, doctor.code);
    assert_answer!(scratch, "doctor_bad_directory", shown);
}

#[apply(test)]
fn c1_leftovers_are_told_and_kept(scratch: Scratch) {
    let live = Owner::start(&scratch);
    let dead = Owner::start(&scratch).kill();
    let doctor = answer(&scratch, ["doctor"]);
    let expected = ("note", "1 of dead owners; run overlay-pool gc");
    assert_eq!(line(&doctor, "left-over directories"), expected);
    assert!(dead.exists() && live.directory.exists());
}

#[apply(test)]
#[needs(MountNamespace)]
fn tmpfs_is_warned_of(scratch: Scratch) {
    fs::create_dir(scratch.join("pool")).expect("a directory");
    let setup = "mount -t tmpfs -o mode=0700,size=1M tmpfs pool";
    let doctor = run(overlay_pool_after(setup, &scratch).arg("doctor"));
    let (state, text) = line(&doctor, "filesystem");
    assert!(state == "note" && text.starts_with("tmpfs, at "), "{doctor}");
    let (state, text) = line(&doctor, "free space");
    assert!(state == "note" && text.contains("; make room"), "{doctor}");
    assert_eq!(line(&doctor, "pool directory").0, "ok");
}

#[apply(test)]
#[needs(MountNamespace)]
#[case::no_device("mount -t tmpfs tmpfs /dev && touch /dev/null", "absent; ")]
#[case::no_kvm("mount -t tmpfs tmpfs /dev && touch /dev/null /dev/kvm", "only present, ")]
fn kvm_is_told_from_a_file_of_its_name(
    scratch: Scratch,
    #[case] setup: &str,
    #[case] expected: &str,
) {
    let doctor = run(overlay_pool_after(setup, &scratch).arg("doctor"));
    let (state, text) = line(&doctor, "kvm");
    assert!(state == "note" && text.starts_with(expected), "{doctor}");
    assert_eq!(doctor.code, Some(0), "{doctor}");
}

/// One that can't resume VMs is told before a boot is spent on it.
#[apply(test)]
fn qemu_that_resumes_nothing_is_a_note(scratch: Scratch) {
    let bin = scratch.join("bin");
    fs::create_dir(&bin).expect("a directory");
    let program = bin.join("qemu-system-x86_64");
    for (version, expected) in
        [("7.2.19", "note"), ("8.1.5", "note"), ("8.2.1", "ok"), ("10.0.2", "ok")]
    {
        let script = format!("#!/bin/sh\necho 'QEMU emulator version {version} (Debian)'\n");
        fs::write(&program, script).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its permissions");
        let doctor = run(overlay_pool(&scratch).arg("doctor").env("PATH", &bin));
        let (state, text) = line(&doctor, "qemu-system-x86_64");
        assert_eq!(state, expected, "{doctor}");
        assert!(text.starts_with(version), "{doctor}");
        assert_eq!(text.contains("QEMU 8.2 or later"), expected == "note", "{doctor}");
    }
}

/// Whether overlays can be moved to the targets is tried, and the reason is the true one.
#[apply(test)]
#[needs(MountNamespace)]
#[case::same("true", "ok", "goes with the pool directory")]
#[case::tmpfs("mount -t tmpfs tmpfs run", "note", "on another filesystem or subvolume")]
#[case::bind("mount --bind run run", "note", "on another mount of the same filesystem")]
fn targets_that_nothing_can_be_moved_to_are_told(
    scratch: Scratch,
    #[case] setup: &str,
    #[case] expected: &str,
    #[case] why: &str,
) {
    fs::create_dir(scratch.join("run")).expect("a directory");
    let mut doctor = overlay_pool_after(setup, &scratch);
    let doctor = run(doctor.args(["doctor", "--targets", "run"]));
    let (state, text) = line(&doctor, "targets");
    assert!(state == expected && text.contains(why), "{doctor}");
    assert_eq!(doctor.code, Some(0), "{doctor}");
    let left: Vec<_> = fs::read_dir(scratch.join("run")).expect("it is there").collect();
    assert!(left.is_empty() && !scratch.join("pool").exists(), "what was tried is gone: {left:?}");
}

/// As with `chattr +C`, which btrfs alone has.
#[apply(test)]
fn targets_whose_files_get_other_attributes_are_told(scratch: Scratch) {
    let run = scratch.join("run");
    fs::create_dir(&run).expect("a directory");
    let directory = fs::File::open(&run).expect("it is there");
    let flags = ioctl_getflags(&directory).expect("its attributes");
    ioctl_setflags(&directory, flags | IFlags::NODUMP).expect("an attribute");
    let doctor = answer(&scratch, ["doctor", "--targets", "run"]);
    let (state, text) = line(&doctor, "targets");
    assert!(
        state == "note" && text.contains("file attributes d, those from the pool none"),
        "{doctor}"
    );
    assert!(text.contains("; give both the same with chattr"), "{doctor}");
}

#[apply(test)]
fn targets_that_are_missing_are_bad(scratch: Scratch) {
    let doctor = answer(&scratch, ["doctor", "--targets", "not/there"]);
    let (state, text) = line(&doctor, "targets");
    assert!(state == "bad" && text.contains("not is missing"), "{doctor}");
    assert_eq!(doctor.code, Some(1), "{doctor}");
}
