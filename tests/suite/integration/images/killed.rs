//! Pulls and removals that are killed at each step that they make in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::harness::cli::{clean, run};
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, content, disk, images, sha256, store, stored};

const NEEDS: &[Need] = &[Need::Registry, Need::Strace];

/// What changes a store.
const STEPS: &str = "?mkdir,mkdirat,?unlink,unlinkat,fchmod,fsync,ftruncate,flock,?rename,renameat,\
    renameat2,?symlink,symlinkat,?chmod,fchmodat";

/// `overlay-pool images` with these arguments, under strace with these options.
fn traced(scratch: &Path, arguments: &[&str], options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(scratch.join("strace.log")).args(options);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("images").args(arguments);
    let mut command = clean(command, scratch);
    command.env("OVERLAY_POOL_STORE", store(scratch));
    command
}

/// How often a thread made each call that changes a store, at most.
fn steps(log: &str) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if call.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((_, call), count) in counts {
        let known = most.entry(call.to_owned()).or_default();
        *known = count.max(*known);
    }
    most
}

/// Kills `overlay-pool images` with these arguments at each of the steps; says how often it was killed.
/// `look` is told where, and what is in the store then.
fn killed_at_each(
    scratch: &Path,
    arguments: &[&str],
    steps: &BTreeMap<String, usize>,
    prepare: impl Fn(),
    look: impl Fn(&str),
) -> usize {
    let mut killed = 0;
    for (call, count) in steps {
        for number in 1..=*count {
            prepare();
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let options = ["-e", &format!("trace={call}"), "-e", &inject];
            let done = run(&mut traced(scratch, arguments, &options));
            killed += usize::from(done.code != Some(0));
            look(&format!("killed at {call} {number}: {:?}", content(scratch)));
        }
    }
    killed
}

#[apply(test)]
fn whenever_it_is_killed_no_half_image_counts(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(0, 1), disk(0, 2));
    let image = registry.image("x:1");
    let name = store(&scratch).join(format!("{}/x/1.qcow2", registry.address()));
    // The old one is there, and the tag has moved.
    let prepare = || {
        let _ = std::fs::remove_dir_all(store(&scratch));
        registry.put_disk("x", "1", &old);
        assert_eq!(run(&mut images(&scratch, &["pull", &image])).code, Some(0));
        registry.put_disk("x", "1", &new);
    };
    prepare();
    let trace = format!("trace={STEPS}");
    let done = run(&mut traced(&scratch, &["pull", &image], &["-e", &trace]));
    assert_eq!(done.code, Some(0), "{done}");
    let steps = steps(&std::fs::read_to_string(scratch.join("strace.log")).expect("a log"));
    let seen: BTreeSet<_> = steps.keys().map(String::as_str).collect();
    for call in ["flock", "fchmod", "fsync", "renameat2"] {
        assert!(seen.contains(call), "{steps:?}");
    }
    let killed = killed_at_each(&scratch, &["pull", &image], &steps, prepare, |at| {
        // The name leads to the one or the other, and what is there is whole.
        let leads = name.canonicalize().expect("a name");
        assert!([stored(&scratch, &old), stored(&scratch, &new)].contains(&leads), "{at}");
        for bytes in [&old, &new] {
            let path = stored(&scratch, bytes);
            if path.exists() {
                assert_eq!(sha256(&std::fs::read(&path).expect("it")), sha256(bytes), "{at}");
            }
        }
        let pulled = run(&mut images(&scratch, &["pull", &image]));
        assert_eq!(pulled.code, Some(0), "{at}\n{pulled}");
        assert_eq!(name.canonicalize().expect("a name"), stored(&scratch, &new), "{at}");
        let pruned = run(&mut images(&scratch, &["prune"]));
        assert_eq!(pruned.code, Some(0), "{at}\n{pruned}");
        let left = content(&scratch);
        assert_eq!(left.len(), 2, "the image and its name: {left:?}\n{at}");
    });
    assert!(killed >= 8, "{killed} of {steps:?}");
}

#[apply(test)]
fn whenever_a_removal_is_killed_an_image_is_whole_or_gone(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(0, 1);
    let image = registry.image("x:1");
    let (name, file) = (
        store(&scratch).join(format!("{}/x/1.qcow2", registry.address())),
        stored(&scratch, &bytes),
    );
    registry.put_disk("x", "1", &bytes);
    let prepare = || assert_eq!(run(&mut images(&scratch, &["pull", &image])).code, Some(0));
    let prune = ["prune", "--max-size", "0"];
    prepare();
    let done = run(&mut traced(&scratch, &prune, &["-e", &format!("trace={STEPS}")]));
    assert_eq!((done.code, content(&scratch)), (Some(0), vec![]), "{done}");
    let steps = steps(&std::fs::read_to_string(scratch.join("strace.log")).expect("a log"));
    let killed = killed_at_each(&scratch, &prune, &steps, prepare, |at| {
        // Whoever comes next puts back what is aside.
        assert_eq!(run(&mut images(&scratch, &["ls"])).code, Some(0), "{at}");
        if file.exists() {
            assert_eq!(std::fs::read(&file).expect("the image"), bytes, "{at}");
        } else {
            assert_eq!(content(&scratch), [""; 0], "{at}");
        }
        assert!(!name.is_symlink() || name.exists(), "{at}");
    });
    assert!(killed >= 4, "{killed} of {steps:?}");
}

/// NFS moves nothing only where nothing is.
#[apply(test)]
fn a_store_is_had_where_a_move_may_replace(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let bytes = disk(0, 1);
    let image = registry.image("x:1");
    registry.put_disk("x", "1", &bytes);
    let options = ["-e", "trace=renameat2", "-e", "inject=renameat2:error=EINVAL"];
    let pulled = run(&mut traced(&scratch, &["pull", &image], &options));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    let file = stored(&scratch, &bytes);
    assert_eq!(std::fs::read(&file).expect("the image"), bytes);
    // As one who prunes and is killed leaves it.
    let aside = store(&scratch).join("aside").join(file.file_name().expect("a name"));
    std::fs::rename(&file, &aside).expect("it is aside");
    let listed = run(&mut traced(&scratch, &["ls"], &options));
    assert_eq!(listed.code, Some(0), "{listed}");
    assert_eq!((std::fs::read(&file).expect("the image"), aside.exists()), (bytes, false));
    assert!(content(&scratch).iter().all(|path| !path.starts_with("partial/")));
}
