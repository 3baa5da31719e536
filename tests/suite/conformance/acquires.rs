//! Many acquires at the same time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::json;

use super::case::{Format, Signal};
use super::run::{There, there};
use super::world::{World, broken, fields, unfit};
use crate::harness::shim::{Answer, Checked};

impl World<'_> {
    /// Sends all, then reads the answers; meanwhile looks that each target is complete when it
    /// becomes visible.
    pub(super) fn acquire_many(
        &mut self,
        count: usize,
        base: &str,
        target: &str,
    ) -> Checked<Vec<Answer>> {
        let mut targets = Vec::new();
        let mut ids = Vec::new();
        for number in 0..count {
            targets.push(self.path(&target.replace("{}", &number.to_string()))?);
        }
        let seen_at: Vec<PathBuf> = targets.iter().map(|target| self.outside(target)).collect();
        let done = AtomicBool::new(false);
        let (answers, first_seen) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&seen_at, &done));
            let mut answers = || -> Checked<Vec<Answer>> {
                for target in &targets {
                    let base = self.base(base, Format::Qcow2, false);
                    let request = json!({ "base": base, "target": target });
                    ids.push(self.shim()?.send("acquire", fields(request))?);
                }
                ids.iter().map(|id| self.answer(*id)).collect()
            };
            let answers = answers();
            done.store(true, Ordering::Relaxed);
            (answers, watcher.join().expect("the watcher doesn't panic"))
        });
        let answers = answers?;
        for (target, answer) in targets.iter().zip(&answers) {
            if let Ok(acquired) = answer {
                self.check_acquired(acquired, base, target)?;
            }
        }
        for (target, first) in seen_at.iter().zip(first_seen) {
            if first.is_some_and(|first| there(target) != There::Bytes(first)) {
                broken!("A2: {} was visible before it was complete", target.display());
            }
        }
        Ok(answers)
    }

    pub(super) fn acquire_cancelled(&mut self, count: usize, base: &str, target: &str) -> Checked {
        let before = self.stats()?;
        let mut acquires = Vec::new();
        for number in 0..count {
            let target = target.replace("{}", &number.to_string());
            let request = self.acquire_request(base, Format::Qcow2, &target, false)?;
            let id = self.shim()?.send("acquire", fields(request))?;
            let cancel = self.shim()?.send("cancel", fields(json!({ "request": id })))?;
            acquires.push((id, cancel, self.path(&target)?));
        }
        let (mut pooled, mut on_demand) = (0, 0);
        for (acquire, cancel, target) in acquires {
            self.answer(cancel)?.map_err(|error| unfit(format!("cancel: {error:?}")))?;
            match self.answer(acquire)? {
                Ok(acquired) => {
                    self.check_acquired(&acquired, base, &target)?;
                    let pooled_one = acquired["source"] == "pooled";
                    *(if pooled_one { &mut pooled } else { &mut on_demand }) += 1;
                }
                Err((name, _)) if name == "cancelled" => {
                    if self.outside(&target).symlink_metadata().is_ok() {
                        broken!("A12: a cancelled acquire left {}", target.display());
                    }
                }
                Err(error) => broken!("A12: {error:?} instead of cancelled"),
            }
        }
        let after = self.stats()?;
        let grown = |name: &str| after.counter(name) - before.counter(name);
        if (grown("pooled"), grown("on_demand"), grown("failed")) != (pooled, on_demand, 0) {
            broken!("T2: {pooled} pooled and {on_demand} on demand, but {before:?} and {after:?}");
        }
        if before.total() - after.total() != pooled {
            broken!("A12: {pooled} pooled, but {before:?} and then {after:?}");
        }
        Ok(())
    }

    /// Each acquire succeeds or leaves nothing, whatever happens to the creator's processes.
    pub(super) fn acquire_disturbed(
        &mut self,
        signal: Signal,
        count: usize,
        base: &str,
        target: &str,
    ) -> Checked {
        let mut acquires = Vec::new();
        for number in 0..count {
            let target = target.replace("{}", &number.to_string());
            let request = self.acquire_request(base, Format::Qcow2, &target, false)?;
            let id = self.shim()?.send("acquire", fields(request))?;
            acquires.push((id, self.path(&target)?));
            // Each at another moment of what is done for it.
            sleep(Duration::from_millis(number as u64));
            let deadline = Instant::now() + self.port.patience;
            while !self.signal_aids(signal)?
                && !self.shim()?.is_answered(id)?
                && Instant::now() < deadline
            {}
        }
        for (id, target) in acquires {
            match self.answer(id)? {
                Ok(acquired) => self.check_acquired(&acquired, base, &target)?,
                Err((name, _)) if name == "create-failed" => {
                    if self.outside(&target).symlink_metadata().is_ok() {
                        broken!("A7: a failed acquire left {}", target.display());
                    }
                }
                Err(error) => broken!("C2: {error:?} instead of create-failed"),
            }
        }
        Ok(())
    }

    /// Sends a signal to what the pool has started, and says whether there was any.
    fn signal_aids(&mut self, signal: Signal) -> Checked<bool> {
        let shim = self.shim()?;
        let (own, started) = (program(shim.pid()), shim.started());
        // One that is stopped before it became another program stops its parent too.
        let is_aid = |pid: &Pid| program(*pid) != own && !self.port.is_pool(*pid);
        // It may have ended by itself.
        let is_signalled = |pid: &Pid| kill_process(*pid, signal.number()).is_ok();
        Ok(started.into_iter().filter(is_aid).filter(is_signalled).count() > 0)
    }
}

/// The program that a process runs.
fn program(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok()
}

/// What stood at each path when it was first seen.
fn watch(paths: &[PathBuf], done: &AtomicBool) -> Vec<Option<Vec<u8>>> {
    let mut seen = vec![None; paths.len()];
    while !done.load(Ordering::Relaxed) {
        for (path, seen) in paths.iter().zip(&mut seen) {
            if seen.is_none() {
                *seen = std::fs::read(path).ok();
            }
        }
        sleep(Duration::from_micros(200));
    }
    seen
}
