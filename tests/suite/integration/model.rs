//! Random sequences of operations on a pool agree with a plain model of the contract.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use overlay_pool::creator::CreatorKind;
use overlay_pool::{Error, OverlayPool, Source};
use proptest::prelude::*;

use crate::harness::case::block_on;
use crate::harness::pools::{config, pool};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

const BASES: usize = 3;

/// Something that a caller, or somebody outside, does.
#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Start with the first so many base images.
    Start(usize),
    Stop,
    Acquire {
        base: usize,
        target: usize,
    },
    RemoveTarget(usize),
    ReplaceBase(usize),
    RemoveBase(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let acquire =
        (0..BASES, 0_usize..6).prop_map(|(base, target)| Operation::Acquire { base, target });
    prop_oneof![
        2 => (0..=BASES).prop_map(Operation::Start),
        1 => Just(Operation::Stop),
        8 => acquire,
        3 => (0_usize..6).prop_map(Operation::RemoveTarget),
        2 => (0..BASES).prop_map(Operation::ReplaceBase),
        1 => (0..BASES).prop_map(Operation::RemoveBase),
    ]
}

/// What the contract says of a pool that doesn't restock by itself.
#[derive(Default)]
struct Model {
    size: usize,
    started: bool,
    /// Ready overlays, and which version of the base they are of.
    shelves: BTreeMap<usize, (usize, u64)>,
    /// Versions of the base images that are there.
    bases: BTreeMap<usize, u64>,
    targets: BTreeSet<usize>,
    replaced: u64,
    counts: [u64; 4],
}

/// What an acquire answers: pooled, on demand, or the error's name.
type Answer = Result<Source, &'static str>;

impl Model {
    fn start(&mut self, bases: usize) -> Result<(), &'static str> {
        if self.started {
            return Err("already-started");
        }
        self.started = true;
        self.shelves.clear();
        for base in 0..bases {
            if let Some(version) = self.bases.get(&base) {
                self.shelves.insert(base, (self.size, *version));
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.started = false;
        self.shelves.clear();
    }

    fn acquire(&mut self, base: usize, target: usize) -> Answer {
        let answer = self.answer(base, target);
        if self.started {
            self.counts[match answer {
                Ok(Source::Pooled) => 0,
                Ok(Source::OnDemand) => 1,
                Err(_) => 2,
            }] += 1;
        }
        if answer.is_ok() {
            self.targets.insert(target);
        }
        answer
    }

    fn answer(&mut self, base: usize, target: usize) -> Answer {
        if !self.started {
            return Err(if self.targets.contains(&target) {
                "already-exists"
            } else {
                "not-started"
            });
        }
        if self.targets.contains(&target) {
            return Err("already-exists");
        }
        let Some(version) = self.bases.get(&base).copied() else {
            let (stale, _) = self.shelves.remove(&base).unwrap_or_default();
            self.counts[3] += stale as u64;
            return Err("bad-base");
        };
        let (ready, made_of) = self.shelves.entry(base).or_insert((0, version));
        if *made_of != version {
            self.counts[3] += *ready as u64;
            (*ready, *made_of) = (0, version);
        }
        if *ready == 0 {
            return Ok(Source::OnDemand);
        }
        *ready -= 1;
        Ok(Source::Pooled)
    }
}

/// The pool under test, and the files that the operations are about.
struct World {
    scratch: Scratch,
    pool: OverlayPool,
}

impl World {
    fn base(&self, number: usize) -> PathBuf {
        self.scratch.join(format!("{number}.qcow2"))
    }

    fn target(&self, number: usize) -> PathBuf {
        self.scratch.join(format!("vm-{number}.qcow2"))
    }

    fn write_base(&self, number: usize, version: u64) {
        let new = self.scratch.join("new");
        Image::new((version + 1) << 20).write(&new);
        std::fs::rename(new, self.base(number)).expect("the base image is replaced");
    }
}

async fn agree(operations: &[Operation], max_concurrent_vms: i64) -> Result<(), TestCaseError> {
    let scratch = scratch();
    let pool = pool(config(CreatorKind::Native, &scratch, max_concurrent_vms));
    let size = usize::try_from(pool.config().pool_size()).expect("not negative");
    let mut model = Model { size, ..Model::default() };
    let world = World { scratch, pool };
    for number in 0..BASES {
        world.write_base(number, 0);
        model.bases.insert(number, 0);
    }
    for operation in operations {
        match *operation {
            Operation::Start(count) => {
                let bases = (0..count).map(|number| world.base(number).into()).collect();
                let result = world.pool.start(Some(bases)).await;
                prop_assert_eq!(result.map_err(|error| error.name()), model.start(count));
            }
            Operation::Stop => {
                world.pool.stop().await;
                model.stop();
            }
            Operation::Acquire { base, target } => {
                let (base_path, target_path) = (world.base(base), world.target(target));
                let result = world.pool.acquire(base_path, target_path).await;
                let answer =
                    result.map(|acquired| acquired.source).map_err(|error: Error| error.name());
                prop_assert_eq!(answer, model.acquire(base, target));
            }
            Operation::RemoveTarget(number) => {
                let _ = std::fs::remove_file(world.target(number));
                model.targets.remove(&number);
            }
            Operation::ReplaceBase(number) => {
                model.replaced += 1;
                world.write_base(number, model.replaced);
                model.bases.insert(number, model.replaced);
            }
            Operation::RemoveBase(number) => {
                let _ = std::fs::remove_file(world.base(number));
                model.bases.remove(&number);
            }
        }
        let stats = world.pool.stats();
        prop_assert_eq!(
            [stats.pooled, stats.on_demand, stats.failed, stats.discarded],
            model.counts
        );
        let shelves = model.shelves.iter().filter(|_| size > 0);
        let shelves = shelves.map(|(base, (ready, _))| (world.base(*base), *ready));
        prop_assert_eq!(stats.ready, shelves.collect::<BTreeMap<_, _>>());
        let there = (0..6).filter(|number| world.target(*number).exists());
        prop_assert_eq!(there.collect::<BTreeSet<_>>(), model.targets.clone());
    }
    world.pool.stop().await;
    prop_assert!(!world.scratch.join("pool").exists());
    Ok(())
}

#[apply(test)]
fn pool_agrees_with_the_model() {
    proptest!(properties(150), |(
        operations in proptest::collection::vec(operation(), 1..40),
        max_concurrent_vms in 0_i64..7,
    )| {
        block_on(agree(&operations, max_concurrent_vms))?;
    });
}
