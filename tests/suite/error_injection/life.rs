//! A pool's whole life, lived by a process that a fault is made in.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use overlay_pool::creator::CreatorKind;
use serde_json::{Value, json};

use super::ground::{Ground, LARGER, OTHER, Overlays, PRECIOUS};
use crate::harness::faults::descriptors;
use crate::harness::faults::strace::{Fault, Operation, Strace};
use crate::harness::pool_process::{PATIENCE, PoolProcess, Setting, base};
use crate::harness::shim::{Checked, Failure, until};

/// Whether what a plain run leaves out is asked for too.
pub(super) fn is_wide() -> bool {
    std::env::var("OVERLAY_POOL_SWEEP").is_ok_and(|sweep| sweep == "wide")
}

pub(super) struct Life<'a> {
    ground: &'a Ground,
    pub(super) pool: PoolProcess,
    strace: Strace,
    /// The parent of the pool directory can't be removed.
    parent_stays: bool,
    refused: Vec<String>,
    acquired: HashSet<String>,
    /// The overlays as they were found whole.
    seen: Overlays,
}

impl<'a> Life<'a> {
    pub(super) fn new(ground: &'a Ground, creator: CreatorKind, fault: Option<&Fault>) -> Self {
        let (pool, strace) = PoolProcess::traced(fault, &ground.folder, Setting::new(creator));
        let parent_stays = matches!(fault, Some(Fault::Error { at, .. }) if at.call == "rmdir");
        let (refused, acquired, seen) = (Vec::new(), HashSet::new(), Overlays::new());
        Self { ground, pool, strace, parent_stays, refused, acquired, seen }
    }

    /// The file operations of a life without a fault.
    pub(super) fn operations(ground: &'a Ground, creator: CreatorKind) -> Vec<Operation> {
        let mut life = Self::new(ground, creator, None);
        life.live().expect("a life without a fault");
        assert!(life.refused.is_empty(), "{:?}", life.refused);
        life.pool.exit().expect("it exits");
        life.strace.operations(&ground.folder, is_wide())
    }

    /// Two runs of one pool, with overlays from a shelf, on demand, of a new base image, and one
    /// acquire that must be refused. After each step the rules hold.
    pub(super) fn live(&mut self) -> Checked {
        let (one, other) = (&self.ground.one, &self.ground.other);
        self.start()?;
        self.acquire("pooled", one, None)?;
        self.settle()?;
        self.acquire(LARGER.0, one, Some(LARGER.1))?;
        self.acquire(OTHER, other, None)?;
        self.settle()?;
        if let Ok(answer) = self.pool.acquire(one, &self.ground.target(PRECIOUS))? {
            return Err(Failure::Broken(format!("A1: handed over: {answer}")));
        }
        self.settle()?;
        // Whatever was in the way, a base image that is asked for is stocked again.
        self.acquire("again", one, None)?;
        let ready = self.settle()?;
        if !self.pool.directories().is_empty() && !ready.contains_key(one) {
            return Err(Failure::Broken(format!("R3, R4: not stocked: {ready:?}")));
        }
        self.stop()?;
        self.start()?;
        self.acquire("restarted", one, None)?;
        self.stop()
    }

    /// Exits, and says whether the fault was made.
    pub(super) fn end(self) -> Checked<bool> {
        self.pool.exit()?;
        Ok(self.strace.injected())
    }

    /// Sends a request until it succeeds: a single fault fails no more than one request.
    fn insist(&mut self, request: &str, of: &Value) -> Checked {
        while let Err((name, message)) = self.pool.ask(request, of.clone())? {
            self.refused.push(format!("{request}: {name}: {message}"));
            if name == "panic" || self.refused.len() > 1 {
                return Err(Failure::Broken(format!("one fault, but {:#?}", self.refused)));
            }
            self.check()?;
        }
        Ok(())
    }

    fn start(&mut self) -> Checked {
        self.insist("start", &json!({ "bases": [base(&self.ground.one)] }))?;
        self.check()
    }

    fn acquire(&mut self, name: &str, of: &Path, size: Option<u64>) -> Checked {
        let target = self.ground.target(name);
        let request = json!({ "base": base(of), "target": target, "virtual_size": size });
        self.insist("acquire", &request)?;
        self.acquired.insert(name.to_owned());
        self.check()
    }

    fn settle(&mut self) -> Checked<BTreeMap<PathBuf, usize>> {
        self.check()?;
        self.pool.settle()
    }

    /// Rule L11 and D2: nothing is left, on the disk or in the process.
    fn stop(&mut self) -> Checked {
        self.insist("stop", &json!({}))?;
        let left = || self.pool.directories();
        let parent = self.ground.folder.join("pool");
        // Where its removal failed it is tried again, when the last that used it is done.
        let gone = || left().is_empty() && (self.parent_stays || !parent.exists());
        if !until(PATIENCE, gone) {
            return Err(Failure::Broken(format!(
                "L11, D2: {} {:?} left",
                parent.display(),
                left()
            )));
        }
        let open = || open_files(&self.pool, &self.ground.folder);
        // What a creation under way still holds goes when it ends.
        if !until(PATIENCE, || open().is_empty() && self.pool.children().is_empty()) {
            let (open, children) = (open(), self.pool.children());
            return Err(Failure::Broken(format!("L11: after stop: {open:?}, {children:?}")));
        }
        self.check()
    }

    /// Rule A7: no file is at a target that wasn't handed over, and none is beside it.
    fn check(&mut self) -> Checked {
        self.seen = self.ground.overlays_beyond(&self.seen).map_err(Failure::Broken)?;
        let there: HashSet<_> = self.seen.keys().cloned().collect();
        if there == self.acquired {
            return Ok(());
        }
        Err(Failure::Broken(format!("A7: {there:?}, but handed over {:?}", self.acquired)))
    }
}

/// The descriptors of the process that lead to overlays.
fn open_files(pool: &PoolProcess, folder: &Path) -> Vec<PathBuf> {
    let mut files = descriptors::open(pool.pid()).unwrap_or_default();
    let [pool, vm] = ["pool", "vm"].map(|name| folder.join(name));
    files.retain(|file| file.starts_with(&pool) || file.starts_with(&vm));
    files
}
