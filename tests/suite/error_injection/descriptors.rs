//! A process that can open no more files: calls fail with an error that says so or succeed,
//! nothing leaks, and with descriptors again the pool works and fills up.

use overlay_pool::creator::CreatorKind;
use rustix::process::Pid;

use super::ground::{Ground, OTHER};
use crate::harness::faults::descriptors;
use crate::harness::pool_process::{PoolProcess, SIZE, Setting, base, directories};
use crate::harness::prelude::*;
use crate::harness::shim::Answer;

/// More than any call here opens at once.
const MOST: usize = 14;

const ERRORS: [&str; 4] = ["bad-base", "bad-target", "create-failed", "creator-unavailable"];

/// Lets these processes open no more than `free` files while `call` is made.
fn starved<T>(pids: &[Pid], free: usize, call: impl FnOnce() -> T) -> T {
    for pid in pids {
        descriptors::limit(*pid, Some(free)).expect("a limit");
    }
    let answer = call();
    for pid in pids {
        let _ = descriptors::limit(*pid, None); // a daemon may have been replaced
    }
    answer
}

/// Whether it succeeded; with what it failed is an error that the contract knows.
fn judge(answer: Answer, free: usize) -> bool {
    match answer {
        Ok(_) => true,
        Err((name, message)) => {
            assert!(ERRORS.contains(&name.as_str()), "{free} free: {name}: {message}");
            false
        }
    }
}

#[apply(test)]
#[case::native(CreatorKind::Native, false)]
#[needs(QemuImg)]
#[case::qemu_img(CreatorKind::QemuImg, false)]
#[needs(StorageDaemon)]
#[case::storage_daemon(CreatorKind::StorageDaemon, false)]
#[needs(StorageDaemon)]
#[case::in_the_daemon(CreatorKind::StorageDaemon, true)]
fn a7_r3_acquires_without_descriptors(
    scratch: Scratch,
    #[case] creator: CreatorKind,
    #[case] in_the_daemon: bool,
) {
    let (mut refused, mut served) = (0, 0);
    for free in 0..MOST {
        let ground = Ground::new(&scratch.join(free.to_string()));
        let mut pool = PoolProcess::launch(&ground.folder, Setting::new(creator));
        pool.start(&[&ground.one]).expect("an answer").expect("started");
        let pids = if in_the_daemon { pool.children() } else { vec![pool.pid()] };
        starved(&pids, free, || {
            // One more than are ready, and one of a base image that wasn't seen before.
            let mut wanted = vec![(&ground.one, "0"), (&ground.one, "1"), (&ground.one, "2")];
            wanted.push((&ground.other, OTHER));
            for (of, name) in wanted {
                let target = ground.target(name);
                let answer = pool.acquire(of, &target).expect("an answer");
                let succeeded = judge(answer, free);
                assert_eq!(succeeded, target.exists(), "A7: {free} free: {name}");
                *(if succeeded { &mut served } else { &mut refused }) += 1;
            }
            ground.overlays().expect("sound overlays");
        });
        let target = ground.target("after");
        pool.acquire(&ground.one, &target).expect("an answer").expect("an overlay");
        let ready = pool.settle().expect("the shelves fill up again");
        assert_eq!(ready[&ground.one], SIZE, "R3: {free} free");
        pool.stop().expect("an answer").expect("stopped");
        pool.exit().expect("it exits, and nothing survives it");
        assert!(directories(&ground.folder).is_empty(), "L11: {free} free");
        ground.overlays().expect("sound overlays");
    }
    println!("{served} served, {refused} refused");
    assert!(refused > 0, "descriptors never ran out");
}

#[apply(each_creator)]
fn l7_l8_starts_without_descriptors(scratch: Scratch, #[case] creator: CreatorKind) {
    for free in 0..MOST {
        let ground = Ground::new(&scratch.join(free.to_string()));
        let mut pool = PoolProcess::launch(&ground.folder, Setting::new(creator));
        let pids = [pool.pid()];
        let bases = serde_json::json!({ "bases": [base(&ground.one)] });
        let started = starved(&pids, free, || {
            judge(pool.ask("start", bases.clone()).expect("an answer"), free)
        });
        if started {
            let target = ground.target("started");
            pool.acquire(&ground.one, &target).expect("an answer").expect("an overlay");
            pool.stop().expect("an answer").expect("stopped");
        }
        assert!(directories(&ground.folder).is_empty(), "L7: {free} free");
        pool.start(&[&ground.one]).expect("an answer").expect("started");
        assert_eq!(pool.ready().expect("figures")[&ground.one], SIZE);
        pool.exit().expect("it exits, and nothing survives it");
        assert!(directories(&ground.folder).is_empty(), "L11: {free} free");
    }
}
