//! Many acquires at the same time.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};

use super::answers::told_error;
use super::case::Format;
use super::look::Figures;
use super::run::{There, there};
use super::step::Signal;
use super::world::{World, broken, fields, names, unfit};
use crate::processes::{self, command, is_stopped, runs};
use crate::shim::{Answer, Checked, Shim, until};

/// How much longer than `create_timeout` an acquire may take, and how long a process that is killed
/// takes to be gone: less than the default of `create_timeout`.
pub(super) const SLACK: Duration = Duration::from_secs(5);
/// How many more acquires are cancelled, until the process of one was stopped.
const MORE: usize = 9;

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
        let beside = seen_at.first().and_then(|target| target.parent());
        let beside = beside.filter(|_| self.case.proves("A11"));
        let (answers, (first_seen, drafts)) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&seen_at, beside, &done));
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
        for ((target, first), answer) in seen_at.iter().zip(first_seen).zip(&answers) {
            let Some((mode, bytes)) = first else { continue };
            if there(target) != There::Bytes(bytes) {
                let is_pooled = answer.as_ref().is_ok_and(|its| its["source"] == "pooled");
                let id = if is_pooled { "A2.2" } else { "A3.2" };
                broken!("{id}: {} was visible before it was complete", target.display());
            }
            if mode != 0o600 && self.case.proves("A11") {
                broken!("A11.1: {} appeared with mode {mode:o}, not 600", target.display());
            }
        }
        if let Some((name, mode)) = drafts.iter().find(|(_, mode)| *mode & 0o077 != 0) {
            broken!("A11.1: {name}, beside the targets, had mode {mode:o}, not 600");
        }
        Ok(answers)
    }

    /// Sends an acquire; gives its request and its target.
    pub(super) fn begin(
        &mut self,
        base: &str,
        target: &str,
        number: usize,
    ) -> Checked<(u64, PathBuf)> {
        let target = target.replace("{}", &number.to_string());
        let request = self.acquire_request(base, Format::Qcow2, &target, false)?;
        let id = self.shim()?.send("acquire", fields(request))?;
        Ok((id, self.path(&target)?))
    }

    pub(super) fn acquire_cancelled(&mut self, count: usize, base: &str, target: &str) -> Checked {
        let before = self.stats()?;
        let mut acquires = Vec::new();
        for number in 0..count {
            let (id, target) = self.begin(base, target, number)?;
            let cancel = self.shim()?.send("cancel", fields(json!({ "request": id })))?;
            acquires.push((id, cancel, target));
        }
        let mut done = Vec::new();
        for (acquire, cancel, target) in acquires {
            self.expect_cancel(cancel)?;
            done.extend(self.check_cancelled(acquire, base, &target)?);
        }
        self.compare_with_answers(&before, &done)
    }

    pub(super) fn acquire_cancelled_while_stopped(
        &mut self,
        count: usize,
        base: &str,
        target: &str,
        stays_stopped: bool,
    ) -> Checked {
        let (before, in_use) = (self.stats()?, self.in_use()?);
        let aids = self.aids()?.len();
        let (mut done, mut any_stopped) = (Vec::new(), false);
        // On a busy machine one may be done before its process is found.
        for number in 0..count + MORE {
            if number >= count && any_stopped {
                break;
            }
            // A process that serves all is stopped before, one for this acquire meanwhile.
            self.signal_aids(Signal::Stop)?;
            let (id, target) = self.begin(base, target, number)?;
            let is_stopped = self.await_stopped(id)?;
            any_stopped |= is_stopped;
            let cancel = self.shim()?.send("cancel", fields(json!({ "request": id })))?;
            self.expect_cancel(cancel)?;
            if stays_stopped {
                self.expect_no_more_aids(aids)?;
            }
            self.signal_aids(Signal::Cont)?;
            let source = self.check_cancelled(id, base, &target)?;
            if is_stopped && source.is_some() {
                let target = target.display();
                broken!("A12.1: {target} was handed over, but cancelled while its creation hung");
            }
            done.extend(source);
        }
        self.compare_with_answers(&before, &done)?;
        if stays_stopped { self.expect_in_use(in_use) } else { Ok(()) }
    }

    /// What hangs is ended, and not just when it goes on.
    fn expect_no_more_aids(&mut self, before: usize) -> Checked {
        let timeout = Duration::from_millis(self.case.config.create_timeout_ms) + SLACK;
        let mut aids = self.aids();
        until(timeout, || {
            aids = self.aids();
            aids.as_ref().is_ok_and(|aids| aids.len() <= before)
        });
        let aids = aids?;
        if aids.len() > before {
            broken!("A12.4: {} is left of what was cancelled", processes::names(&aids));
        }
        Ok(())
    }

    pub(super) fn expect_cancel(&mut self, cancel: u64) -> Checked {
        let answer = self.answer(cancel)?;
        answer.map(drop).map_err(|error| unfit(format!("cancel: {}", told_error(&error))))
    }

    /// Where the overlay came from, if it was done before it was cancelled; else nothing is there.
    pub(super) fn check_cancelled(
        &mut self,
        acquire: u64,
        base: &str,
        target: &Path,
    ) -> Checked<Option<Value>> {
        match self.answer(acquire)? {
            Ok(acquired) => {
                self.check_acquired(&acquired, base, target)?;
                Ok(Some(acquired["source"].clone()))
            }
            Err((name, _)) if name == "cancelled" => {
                self.expect_nothing("A12.1: a cancelled acquire left", target)?;
                Ok(None)
            }
            Err(error) => {
                let id = self.broken_of(&["A12.1", "A12.5", "A12.6"]);
                broken!("{id}: {}, not cancelled", told_error(&error))
            }
        }
    }

    pub(super) fn expect_nothing(&self, left: &str, target: &Path) -> Checked {
        match self.outside(target).symlink_metadata() {
            Ok(_) => broken!("{left} {}", target.display()),
            Err(_) => Ok(()),
        }
    }

    /// Shelves and counters are what follows from the sources of all that was handed over.
    pub(super) fn compare_with_answers(&mut self, before: &Figures, sources: &[Value]) -> Checked {
        let after = self.stats()?;
        let count = |source| sources.iter().map(|found| i64::from(*found == source)).sum::<i64>();
        let (pooled, on_demand) = (count("pooled"), count("on-demand"));
        for (name, count) in [("pooled", pooled), ("on_demand", on_demand), ("failed", 0)] {
            if let (Some(before), Some(after)) = (before.counter(name), after.counter(name))
                && after - before != count
            {
                broken!("T2.7: {name} grew from {before} to {after}, not by {count}");
            }
        }
        if before.total() - after.total() != pooled {
            broken!("A12.2: {pooled} pooled, but {before:?} and then {after:?}");
        }
        Ok(())
    }

    pub(super) fn acquire_killed(&mut self, count: usize, base: &str, target: &str) -> Checked {
        let mut acquires = Vec::new();
        for number in 0..count {
            acquires.push(self.begin(base, target, number)?.0);
        }
        let deadline = Instant::now() + self.port.patience;
        'until_stopped: while Instant::now() < deadline {
            for aid in self.aids()? {
                // Before it becomes another program it hasn't said that it ends with its parent.
                if !runs(aid, "setpriv") {
                    // It may have ended by itself.
                    let _ = kill_process(aid, Signal::Stop.number());
                }
                if is_stopped(aid) {
                    break 'until_stopped;
                }
            }
            let mut done = true;
            for id in &acquires {
                done &= self.shim()?.is_answered(*id)?;
            }
            if done {
                break;
            }
            sleep(Duration::from_millis(1));
        }
        self.take_shim().map_or(Ok(()), Shim::kill).map_err(|failure| failure.at("C1.3"))
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
            let (id, target) = self.begin(base, target, number)?;
            acquires.push((id, target));
            // Each at another moment of what is done for it.
            sleep(Duration::from_millis(number as u64));
            let deadline = Instant::now() + self.port.patience;
            while !self.signal_aids(signal)?
                && !self.shim()?.is_answered(id)?
                && Instant::now() < deadline
            {
                sleep(Duration::from_micros(200));
            }
        }
        let timeout = Duration::from_millis(self.case.config.create_timeout_ms) + SLACK;
        let deadline = Instant::now() + timeout;
        for (id, target) in acquires {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answer_within(id, left).map_err(|failure| failure.at("C2.4"))? {
                Ok(acquired) => self.check_acquired(&acquired, base, &target)?,
                Err((name, message)) if name == "create-failed" => {
                    self.expect_nothing("A7.4: a failed acquire left", &target)?;
                    let name = target.file_name().unwrap_or_default().to_string_lossy();
                    if !message.contains(base) || !message.contains(&*name) {
                        broken!("A7.2: the message doesn't name {base} and {name}: {message}");
                    }
                }
                Err(error) => broken!("C2.3: {}, not create-failed", told_error(&error)),
            }
        }
        Ok(())
    }

    /// Stops what the pool has started, until it stands still; false where the acquire is answered
    /// all the same, since it doesn't wait for that.
    pub(super) fn await_stopped(&mut self, acquire: u64) -> Checked<bool> {
        let deadline = Instant::now() + self.port.patience;
        while Instant::now() < deadline {
            self.signal_aids(Signal::Stop)?;
            if self.shim()?.is_answered(acquire)? {
                return Ok(false);
            }
            if self.aids()?.into_iter().any(is_stopped) {
                sleep(Duration::from_millis(200));
                return self.shim()?.is_answered(acquire).map(|answered| !answered);
            }
            sleep(Duration::from_millis(1));
        }
        Ok(false)
    }

    /// Sends a signal to what the pool has started, and says whether there was any.
    pub(super) fn signal_aids(&mut self, signal: Signal) -> Checked<bool> {
        // It may have ended by itself.
        let is_signalled = |pid: &Pid| kill_process(*pid, signal.number()).is_ok();
        Ok(self.aids()?.into_iter().filter(is_signalled).count() > 0)
    }

    /// What the pool has started.
    pub(super) fn aids(&mut self) -> Checked<Vec<Pid>> {
        let shim = self.shim()?;
        let (own, mut aids) = (command(shim.pid()), shim.started());
        // One that is stopped before it became another program stops its parent too.
        aids.retain(|pid| command(*pid) != own && !self.port.is_pool(*pid));
        Ok(aids)
    }
}

/// The mode and the bytes of what stood at a path when it was first seen.
type FirstSeen = Option<(u32, Vec<u8>)>;

/// What was first seen at each path, and the modes that whatever is made in a directory was seen with.
fn watch(
    paths: &[PathBuf],
    beside: Option<&Path>,
    done: &AtomicBool,
) -> (Vec<FirstSeen>, BTreeSet<(String, u32)>) {
    let mode_of = |path: &Path| Some(path.symlink_metadata().ok()?.permissions().mode() & 0o7777);
    let look = |path: &PathBuf| Some((mode_of(path)?, std::fs::read(path).ok()?));
    let before = beside.map(names).unwrap_or_default();
    let mut modes = BTreeSet::new();
    let mut seen = vec![None; paths.len()];
    while !done.load(Ordering::Relaxed) {
        for (path, seen) in paths.iter().zip(&mut seen) {
            if seen.is_none() {
                *seen = look(path);
            }
        }
        let Some(directory) = beside else {
            sleep(Duration::from_micros(200));
            continue;
        };
        for name in names(directory).into_iter().filter(|name| !before.contains(name)) {
            modes.extend(mode_of(&directory.join(&name)).map(|mode| (name, mode)));
        }
    }
    (seen, modes)
}
