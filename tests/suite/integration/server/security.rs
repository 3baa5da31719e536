//! What a client may not do.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, RenameFlags, mkfifoat, renameat_with};
use serde_json::json;

use super::{figure, names};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// What a client must not be able to name as a target, and how it is refused.
#[apply(test)]
fn hostile_targets_are_refused_and_cost_nothing(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    let [outside, sub] = [scratch.join("outside"), vms.join("sub")];
    for folder in [&outside, &sub] {
        std::fs::create_dir(folder).expect("a folder");
    }
    for (name, to) in [
        ("absolute", outside.as_path()),
        ("relative", Path::new("../outside")),
        ("through", Path::new("sub/../../outside")),
        ("twice", Path::new("relative")),
        ("absolute-inside", &sub),
        ("magic", Path::new("/proc/self/cwd")),
        ("magic-root", Path::new("/proc/1/root")),
        ("loop", Path::new("loop")),
    ] {
        symlink(to, vms.join(name)).expect("a link");
    }
    symlink(outside.join("x"), vms.join("dangling.qcow2")).expect("a link");
    std::fs::write(vms.join("file"), "no directory").expect("a file");
    mkfifoat(CWD, vms.join("pipe"), Mode::RUSR).expect("a FIFO");
    for (target, status, error) in [
        ("vm.qcow2".into(), 400, "bad-request"),
        ("".into(), 400, "bad-request"),
        ("/".into(), 400, "bad-request"),
        (vms.join(".."), 400, "bad-request"),
        (vms.join("."), 400, "bad-request"),
        (vms.join("sub/.."), 400, "bad-request"),
        (vms.join("vm.qcow2/"), 400, "bad-request"),
        (outside.join("vm.qcow2"), 403, "forbidden"),
        (vms.join("../outside/vm.qcow2"), 403, "forbidden"),
        (vms.join("sub/../../outside/vm.qcow2"), 403, "forbidden"),
        (PathBuf::from(format!("{}-not/vm.qcow2", vms.display())), 403, "forbidden"),
        (vms.join("absolute/vm.qcow2"), 403, "forbidden"),
        (vms.join("relative/vm.qcow2"), 403, "forbidden"),
        (vms.join("through/vm.qcow2"), 403, "forbidden"),
        (vms.join("twice/vm.qcow2"), 403, "forbidden"),
        (vms.join("absolute-inside/vm.qcow2"), 403, "forbidden"),
        (vms.join("magic/vm.qcow2"), 403, "forbidden"),
        (vms.join("magic-root/vm.qcow2"), 403, "forbidden"),
        (vms.join("loop/vm.qcow2"), 403, "forbidden"),
        ("/proc/self/cwd/vm.qcow2".into(), 403, "forbidden"),
        (vms.join("dangling.qcow2"), 409, "already-exists"),
        (vms.join("sub"), 409, "already-exists"),
        (vms.clone(), 403, "forbidden"),
        (vms.join("missing/vm.qcow2"), 404, "bad-target"),
        (vms.join("file/vm.qcow2"), 404, "bad-target"),
        (vms.join("pipe/vm.qcow2"), 404, "bad-target"),
        (vms.join("nul\0.qcow2"), 422, "bad-target"),
        (vms.join("nul\0/vm.qcow2"), 422, "bad-target"),
        (vms.join("n".repeat(300)), 422, "bad-target"),
        (vms.join("n".repeat(300)).join("vm.qcow2"), 422, "bad-target"),
        (vms.join("long/".repeat(1000)).join("vm.qcow2"), 422, "bad-target"),
        (vms.join("pool-0123456789abcdef0123456789abcdef/vm.qcow2"), 404, "bad-target"),
    ] {
        let answer = server.acquire(&base, &target);
        assert_eq!(answer.problem(status), error, "{}: {answer:?}", target.display());
    }
    assert_eq!(names(&outside), [] as [&str; 0]);
    let stats = server.get("/v1/stats").json();
    assert_eq!((figure(&stats, "discarded"), server.ready()), (0, 2), "no overlay was wasted");
    for inside in ["sub/../vm.qcow2", "sub/vm.qcow2"] {
        assert_eq!(server.acquire(&base, &vms.join(inside)).status, 200);
    }
    assert!(sub.join("vm.qcow2").exists() && vms.join("vm.qcow2").exists());
}

/// What lies in the pool's own directory is removed with it: nothing is handed over there.
#[apply(test)]
fn d4_no_target_in_a_directory_that_will_be_removed(scratch: Scratch) {
    server::one_base(&scratch);
    let mut args = server::one_base_args(&scratch);
    args.truncate(args.len() - 2); // targets may lie in the pool's place
    let server = Server::start(&scratch, args);
    let (base, pool) = (server::base(&scratch), scratch.join("pool"));
    let own = names(&pool).remove(0);
    let vm = "vm-550e8400e29b41d4a716446655440000";
    for name in [&own, vm] {
        std::fs::create_dir_all(pool.join(name)).expect("a folder");
        symlink(name, pool.join(format!("link-{name}"))).expect("a link");
        for folder in [name.to_owned(), format!("link-{name}"), format!("{name}/../{name}")] {
            let target = pool.join(&folder).join("vm.qcow2");
            let answer = server.acquire(&base, &target);
            assert_eq!(answer.problem(422), "bad-target", "{folder}: {answer:?}");
            assert!(!target.exists());
        }
    }
    assert_eq!(server.acquire(&base, &pool.join("vm.qcow2")).json()["source"], "pooled");
    server.stop();
    assert!(pool.join("vm.qcow2").exists() && !pool.join(own).exists());
}

/// A directory is swapped for a link that leads out, over and over, while overlays are acquired
/// in it.
#[apply(test)]
fn no_swap_leads_out(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let (base, vms, outside) =
        (server::base(&scratch), server::vms(&scratch), scratch.join("outside"));
    for folder in [&outside, &vms.join("a")] {
        std::fs::create_dir(folder).expect("a folder");
    }
    symlink(&outside, vms.join("b")).expect("a link");
    let done = AtomicBool::new(false);
    let (mut made, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (a, b) = (vms.join("a"), vms.join("b"));
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).expect("a swap");
            }
        });
        let mut client = server.client();
        for number in 0.. {
            let target = vms.join("a").join(format!("{number}.qcow2"));
            let request = json!({ "base": base, "target": target });
            match client.post("/v1/acquire", &request).expect("an answer").status {
                200 => made += 1,
                status => {
                    assert_eq!(status, 403);
                    refused += 1;
                }
            }
            if made >= 100 && refused >= 100 {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(names(&outside), [] as [&str; 0]);
    let real = ["a", "b"].map(|name| vms.join(name)).into_iter().find(|path| !path.is_symlink());
    assert_eq!(names(&real.expect("the folder")).len(), made);
}

/// The directory of targets is removed and made again, as cleaners of temporary files do.
#[apply(test)]
fn l12_a_directory_of_targets_may_be_made_again(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    std::fs::remove_dir(&vms).expect("removed");
    assert_eq!(server.acquire(&base, &vms.join("1.qcow2")).problem(404), "bad-target");
    std::fs::create_dir(&vms).expect("made again");
    assert_eq!(server.acquire(&base, &vms.join("1.qcow2")).status, 200);
    // Another's link in its place leads nowhere.
    std::fs::remove_dir_all(&vms).expect("removed");
    symlink(&*scratch, &vms).expect("a link");
    assert_eq!(server.acquire(&base, &vms.join("2.qcow2")).problem(403), "forbidden");
    assert!(!scratch.join("2.qcow2").exists());
}
