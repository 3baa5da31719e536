//! At every file operation of a pool's life: it fails, or the process is killed.
//!
//! A clean life is traced first, so that operations are found and not listed here. Then it is
//! lived again for each of them, with the fault in that one. By default every fourth of the lives is
//! lived, another fourth with each creator, and its operation fails with one of the errors in turn;
//! `OVERLAY_POOL_SWEEP=wide`, as the weekly run has it, takes every error for every operation, and has
//! what is said to the storage daemon fail too.

use std::path::Path;

use overlay_pool::creator::CreatorKind;

use super::ground::Ground;
use super::life::{Life, is_wide};
use crate::harness::faults::strace::{Fault, Operation};
use crate::harness::pool_process::{PoolProcess, Setting, directories};
use crate::harness::prelude::*;
use crate::harness::shim::{Checked, Failure};

const NEEDS: &[Need] = &[Need::Strace];

/// Of so many lives one is lived, unless all are.
const PART: usize = 4;

const ERRORS: [&str; 4] = ["ENOSPC", "EIO", "EACCES", "EMFILE"];

/// Lives a life for each fault; fails where a rule is broken, or where faults weren't made.
fn for_each(
    scratch: &Path,
    creator: CreatorKind,
    faults: impl Fn(usize, Operation) -> Vec<Fault>,
    live: impl Fn(&Ground, CreatorKind, &Fault) -> Checked<bool>,
) {
    let clean = Ground::new(&scratch.join("clean"));
    let operations = Life::operations(&clean, creator);
    assert!(operations.len() > 50, "too few to be a pool's life: {operations:#?}");
    let (mut lives, mut missed, mut broken) = (0, Vec::new(), Vec::new());
    let (first, step) = if is_wide() { (0, 1) } else { (creator as usize, PART) };
    for (number, operation) in operations.into_iter().enumerate().skip(first).step_by(step) {
        for fault in faults(number, operation) {
            let ground = Ground::new(&scratch.join(lives.to_string()));
            lives += 1;
            match live(&ground, creator, &fault) {
                Ok(made) => {
                    if !made {
                        missed.push(fault.to_string());
                    }
                    std::fs::remove_dir_all(&ground.folder).expect("removed");
                }
                Err(failure) => broken.push(format!("{fault}\n    {failure}")),
            }
        }
    }
    println!("{lives} lives, {} without their fault, {} broken", missed.len(), broken.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    // Restocking goes on beside the calls: what a pool does isn't always done in one order, nor equally
    // often. The clean life is slower, and several acquires have one restock together more seldom.
    assert!(missed.len() <= lives / 4, "of {lives} faults not made:\n{}", missed.join("\n"));
}

#[apply(each_creator)]
fn a7_l7_l8_l11_r3_each_operation_fails(
    #[from(scratch_in_memory)] scratch: Scratch,
    #[case] creator: CreatorKind,
) {
    let faults = |number: usize, at: Operation| {
        let errors =
            if is_wide() { ERRORS.to_vec() } else { vec![ERRORS[number / PART % ERRORS.len()]] };
        errors.into_iter().map(|errno| Fault::Error { errno, at: at.clone() }).collect()
    };
    for_each(&scratch, creator, faults, |ground, creator, fault| {
        let mut life = Life::new(ground, creator, Some(fault));
        life.live()?;
        life.end()
    });
}

#[apply(test)]
#[case::native(CreatorKind::Native)]
#[needs(StorageDaemon)]
#[case::storage_daemon(CreatorKind::StorageDaemon)]
fn c1_a2_killed_at_each_operation(
    #[from(scratch_in_memory)] scratch: Scratch,
    #[case] creator: CreatorKind,
) {
    let faults = |_, at| vec![Fault::Kill { at }];
    for_each(&scratch, creator, faults, |ground, creator, fault| {
        let mut life = Life::new(ground, creator, Some(fault));
        match life.live() {
            Ok(()) => match life.end() {
                // It was killed at what it does last.
                Err(Failure::Unfit(_)) => {}
                ended => return ended,
            },
            Err(_) => life.pool.expect_gone()?,
        }
        let before = ground.overlays().map_err(Failure::Broken)?;
        let mut next = PoolProcess::launch(&ground.folder, Setting::new(CreatorKind::Native));
        next.start(&[&ground.one])?.map_err(|error| Failure::Broken(format!("{error:?}")))?;
        let found = next.directories();
        if found.len() != 1 {
            return Err(Failure::Broken(format!("C1: not swept: {found:?}")));
        }
        let stopped = next.stop()?;
        stopped.map_err(|error| Failure::Broken(format!("{error:?}")))?;
        next.exit()?;
        let left = directories(&ground.folder);
        let after = ground.overlays().map_err(Failure::Broken)?;
        if !left.is_empty() || after != before {
            return Err(Failure::Broken(format!("C1: {left:?} left, {before:?} now {after:?}")));
        }
        Ok(true)
    });
}
