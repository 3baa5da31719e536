//! Rule R1 where the wall clock jumps: time is what passes, not what a clock on the wall says.

use std::time::Duration;

use overlay_pool::creator::CreatorKind;

use super::ground::Ground;
use crate::harness::faults::clock::Clock;
use crate::harness::pool_process::{PoolProcess, SIZE, Setting};
use crate::harness::pools::NOT_DUE;
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[Need::Faketime];

const YEAR: i64 = 365 * 24 * 3600;

#[apply(each_creator)]
fn r1_restocks_though_the_clock_jumps(scratch: Scratch, #[case] creator: CreatorKind) {
    let ground = Ground::new(&scratch);
    let (clock, prefix) = Clock::new(&scratch);
    let setting = Setting { restock_interval: Duration::from_millis(200), ..Setting::new(creator) };
    let mut pool = PoolProcess::under(prefix, &scratch, setting);
    pool.start(&[&ground.one]).expect("an answer").expect("started");
    for (number, seconds) in [-YEAR, YEAR, -3600, 0].into_iter().enumerate() {
        let target = ground.target(&number.to_string());
        let acquired = pool.acquire(&ground.one, &target).expect("an answer").expect("an overlay");
        assert_eq!(acquired["source"], "pooled");
        clock.set(seconds);
        let ready = pool.settle().expect("the shelf fills up again");
        assert_eq!(ready[&ground.one], SIZE);
    }
    pool.stop().expect("an answer").expect("stopped");
    pool.exit().expect("it exits");
    assert_eq!(ground.overlays().expect("sound overlays").len(), 4);
}

/// A clock that is put forward makes nothing due.
#[apply(test)]
fn r1_not_before_though_the_clock_jumps(scratch: Scratch) {
    let ground = Ground::new(&scratch);
    let (clock, prefix) = Clock::new(&scratch);
    let setting = Setting { restock_interval: NOT_DUE, ..Setting::new(CreatorKind::Native) };
    let mut pool = PoolProcess::under(prefix, &scratch, setting);
    pool.start(&[&ground.one]).expect("an answer").expect("started");
    for number in 0..20 {
        clock.set(YEAR * number);
        let target = ground.target(&number.to_string());
        let acquired = pool.acquire(&ground.one, &target).expect("an answer").expect("an overlay");
        let expected = if number < 2 { "pooled" } else { "on-demand" };
        assert_eq!(acquired["source"], expected, "{number}");
    }
    assert_eq!(pool.ready().expect("figures")[&ground.one], 0);
    pool.exit().expect("it exits");
}
