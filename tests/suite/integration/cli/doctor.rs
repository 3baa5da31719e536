//! `doctor`: a line for each thing, each with what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use overlay_pool::vm::kvm;

use crate::harness::cli::{Answer, answer, assert_answer, overlay_pool, overlay_pool_after, run};
use crate::harness::owner::Owner;
use crate::harness::prelude::*;

const LOOKED_AT: [&str; 9] = [
    "qemu-img",
    "qemu-storage-daemon",
    "qemu-system-x86_64",
    "kvm",
    "left-over directories",
    "pool directory",
    "filesystem",
    "unnamed files",
    "free space",
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
    let kind = kvm.split_once(':').expect("a kind and a reason").0;
    assert!(line(&doctor, "kvm").1.starts_with(kind), "{doctor}");
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

/// One that can't resume VMs boots each of them, and is told so before a boot is spent on it.
#[apply(test)]
fn an_old_qemu_is_a_note(scratch: Scratch) {
    let bin = scratch.join("bin");
    fs::create_dir(&bin).expect("a directory");
    let old = bin.join("qemu-system-x86_64");
    fs::write(&old, "#!/bin/sh\necho QEMU emulator version 7.2.19\n").expect("a program");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).expect("its permissions");
    let doctor = run(overlay_pool(&scratch).arg("doctor").env("PATH", &bin));
    let (state, text) = line(&doctor, "qemu-system-x86_64");
    assert!(state == "note" && text.contains("from 8.2 on"), "{doctor}");
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
#[case::no_device("mount -t tmpfs tmpfs /dev && touch /dev/null", "absent: ")]
#[case::no_kvm("mount -t tmpfs tmpfs /dev && touch /dev/null /dev/kvm", "only present: ")]
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
