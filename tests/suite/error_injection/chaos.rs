//! The pool's process is killed at random moments, again and again, over one folder.
//!
//! `OVERLAY_POOL_CHAOS_ROUNDS` sets how often (120 by default, 300 in a wide sweep; a third of them
//! with each creator), `OVERLAY_POOL_SEED` the moments.

use std::time::{Duration, Instant};

use overlay_pool::creator::CreatorKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::ground::{Ground, Overlays};
use super::life::is_wide;
use crate::harness::pool_process::{PoolProcess, Setting, base, directories};
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};

const ACQUIRES: u64 = 12;

/// After each next start nothing is left over, no acquired overlay is damaged, no daemon survives.
#[apply(each_creator)]
fn c1_a2_killed_at_random(
    #[from(scratch_in_memory)] scratch: Scratch,
    #[case] creator: CreatorKind,
) {
    let usual = if is_wide() { 300 } else { 120 };
    let rounds = number("OVERLAY_POOL_CHAOS_ROUNDS").unwrap_or(usual);
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_CHAOS_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed ^ (creator as u64) << 62);
    let ground = Ground::new(&scratch);
    let setting = Setting::new(creator);

    // How long it takes when nobody is killed: so the moments are spread over all of it.
    let mut pool = PoolProcess::launch(&ground.folder, setting);
    let begin = Instant::now();
    start(&mut pool, &ground);
    let starting = begin.elapsed();
    let sent = send_acquires(&mut pool, &ground, "whole");
    expect_overlays(&mut pool, &sent);
    let acquiring = begin.elapsed().saturating_sub(starting);
    pool.stop().expect("an answer").expect("stopped");
    pool.exit().expect("it exits");

    let mut before = ground.overlays_beyond(&Overlays::new()).expect("sound overlays");
    let mut left_over = 0;
    for round in 0..rounds.div_ceil(CreatorKind::ALL.len() as u64) {
        let mut pool = PoolProcess::launch(&ground.folder, setting);
        let within = if random.random_bool(0.3) {
            pool.send("start", bases(&ground)).expect("sent");
            starting
        } else {
            start(&mut pool, &ground);
            send_acquires(&mut pool, &ground, &format!("round-{round}"));
            if random.random_bool(0.5) {
                pool.send("stop", json!({})).expect("sent");
            }
            acquiring
        };
        std::thread::sleep(random.random_range(Duration::ZERO..=within));
        pool.kill().expect("nothing of it survives"); // no daemon, no creator

        left_over += directories(&ground.folder).len();
        let overlays = ground.overlays_beyond(&before);
        let overlays = overlays.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let lost: Vec<_> = before.keys().filter(|name| !overlays.contains_key(*name)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} went away");
        before = overlays;
    }
    println!("{} overlays handed over, {left_over} directories left over", before.len());
    let mut pool = PoolProcess::launch(&ground.folder, setting);
    start(&mut pool, &ground);
    let sent = send_acquires(&mut pool, &ground, "last");
    expect_overlays(&mut pool, &sent);
    assert_eq!(pool.directories().len(), 1, "what dead owners left is removed");
    pool.stop().expect("an answer").expect("stopped");
    pool.exit().expect("it exits");
    assert!(directories(&ground.folder).is_empty());
    ground.overlays().expect("sound overlays");
}

fn bases(ground: &Ground) -> Value {
    json!({ "bases": [base(&ground.one), base(&ground.other)] })
}

fn start(pool: &mut PoolProcess, ground: &Ground) {
    pool.ask("start", bases(ground)).expect("an answer").expect("started");
}

fn send_acquires(pool: &mut PoolProcess, ground: &Ground, name: &str) -> Vec<u64> {
    let send = |number| {
        let target = ground.target(&format!("{name}-{number}"));
        pool.send("acquire", json!({ "base": base(&ground.one), "target": target })).expect("sent")
    };
    (0..ACQUIRES).map(send).collect()
}

fn expect_overlays(pool: &mut PoolProcess, sent: &[u64]) {
    for id in sent {
        pool.answer(*id).expect("an answer").expect("an overlay");
    }
}
