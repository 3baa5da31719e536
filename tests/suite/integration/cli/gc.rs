//! `gc`: rule C1 from outside.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::cli::{answer, assert_answer, overlay_pool, overlay_pool_after, run};
use crate::harness::owner::Owner;
use crate::harness::prelude::*;

#[apply(test)]
fn c1_dead_owners_are_swept_and_live_ones_kept(scratch: Scratch) {
    let live = Owner::start(&scratch);
    let dead = Owner::start(&scratch).kill();
    let files = |directory: &Path| fs::read_dir(directory).map(Iterator::count).ok();
    assert_eq!((files(&live.directory), files(&dead)), (Some(2), Some(2)));

    assert_answer!(scratch, "gc_dry_run", answer(&scratch, ["gc", "--dry-run"]));
    assert_answer!(scratch, "gc_dry_run_json", answer(&scratch, ["gc", "--dry-run", "--json"]));
    assert_eq!((files(&live.directory), files(&dead)), (Some(2), Some(2)));

    assert_answer!(scratch, "gc", answer(&scratch, ["gc"]));
    assert_eq!((files(&live.directory), files(&dead)), (Some(2), None));

    assert_answer!(scratch, "gc_nothing", answer(&scratch, ["gc"]));
    let dead = live.kill();
    let named =
        answer(&scratch, ["gc".as_ref(), "--dir".as_ref(), scratch.join("pool").as_os_str()]);
    assert_eq!((named.code, files(&dead)), (Some(0), None), "{named}");
}

/// `create` starts a pool for the moment: where this user's pools are, and not in the system's place.
#[apply(test)]
fn c1_create_looks_where_this_user_s_pools_are(scratch: Scratch) {
    let dead = Owner::start(&scratch).kill();
    assert!(dead.is_dir());
    let _ = answer(&scratch, ["create", "none.qcow2", "vm.qcow2"]);
    assert!(!dead.exists(), "{}", dead.display());
}

/// Whatever else lies there is somebody's.
#[apply(test)]
fn c1_what_no_pool_made_is_kept(scratch: Scratch) {
    let pool = scratch.join("pool");
    let name = |digit: &str| format!("pool-{}", digit.repeat(32));
    fs::create_dir_all(pool.join("pool-1")).expect("a directory that no pool made");
    fs::create_dir_all(scratch.join("other")).expect("a directory");
    fs::write(scratch.join("other/disk.qcow2"), "precious").expect("a file");
    symlink("../other", pool.join(name("a"))).expect("a symbolic link");
    fs::write(pool.join(name("b")), "precious").expect("a file");

    let gc = answer(&scratch, ["gc"]);
    assert_eq!((gc.code, gc.stderr.as_str()), (Some(0), ""), "{gc}");
    assert!(gc.stdout.starts_with("nothing left over"), "{gc}");
    assert!(pool.join("pool-1").is_dir() && pool.join(name("b")).is_file());
    assert!(pool.join(name("a")).is_symlink() && scratch.join("other/disk.qcow2").is_file());
}

/// States of VMs too: those that were half saved go, the others stay.
#[apply(test)]
fn c1_half_saved_states_are_swept(scratch: Scratch) {
    let states = scratch.join("states");
    let [half, whole] =
        [format!("draft-{}", "a".repeat(32)), "b".repeat(32)].map(|name| states.join(name));
    for state in [&half, &whole] {
        fs::create_dir_all(state).expect("a directory");
        fs::write(state.join("ram"), "a guest's").expect("a file");
    }
    let gc = || run(overlay_pool(&scratch).arg("gc").env("OVERLAY_POOL_STATES", &states));
    let answer = gc();
    assert_eq!(
        (answer.code, half.exists(), whole.join("ram").exists()),
        (Some(0), false, true),
        "{answer}"
    );
    assert!(answer.stdout.contains("draft-aaaa"), "{answer}");
    assert!(!answer.stdout.contains("nothing to remove"), "{answer}");
    assert!(gc().stdout.contains("nothing to remove"));
}

/// What is mounted in a left-over stays, with all that is in it.
#[apply(test)]
#[needs(MountNamespace)]
fn what_can_t_be_removed_is_a_failure(scratch: Scratch) {
    // Both before either dies: who starts sweeps.
    let owners = [Owner::start(&scratch), Owner::start(&scratch)];
    let [kept, removed] = owners.map(Owner::kill);
    let (mounted, source) = (kept.join("somebody-s"), scratch.join("source"));
    for directory in [&mounted, &source] {
        fs::create_dir(directory).expect("a directory");
    }
    fs::write(source.join("precious"), []).expect("a file");

    let mount = format!("mount --bind '{}' '{}'", source.display(), mounted.display());
    let gc = run(overlay_pool_after(&mount, &scratch).arg("gc"));
    assert!(source.join("precious").exists() && mounted.exists() && !removed.exists());
    assert_answer!(scratch, "gc_not_removed", gc);
}

#[apply(test)]
fn a_directory_that_others_may_change_is_refused(scratch: Scratch) {
    let pool = scratch.join("pool");
    fs::create_dir(&pool).expect("a directory");
    fs::set_permissions(&pool, fs::Permissions::from_mode(0o777)).expect("its permissions");
    assert_answer!(scratch, "gc_foreign", answer(&scratch, ["gc"]));
}

#[apply(test)]
fn no_directory_is_nothing_to_do(scratch: Scratch) {
    assert_answer!(scratch, "gc_no_directory", answer(&scratch, ["gc", "--dir", "not-there"]));
    assert_answer!(
        scratch,
        "gc_no_directory_json",
        answer(&scratch, ["gc", "--dir", "not-there", "--json"])
    );
    assert!(!scratch.join("not-there").exists());
}
