//! What happens to creations that are under way.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, kill_process};

use super::acquires::SLACK;
use super::answers::{told, told_error};
use super::case::Image;
use super::disturb::set_modified;
use super::step::Signal;
use super::world::{World, broken, fields, unfit};
use crate::processes::{is_stopped, names, open_files, runs};
use crate::shim::{Checked, until};

/// How often an overlay is acquired to see another being made. A pool that needs no process for
/// that never shows one.
const TRIES: usize = 10;

impl World<'_> {
    /// Cancels one acquire after the other, at other and other moments of its creation.
    pub(super) fn acquire_cancelled_apart(
        &mut self,
        count: usize,
        base: &str,
        target: &str,
        spread_ms: u64,
    ) -> Checked {
        let (figures, before) = (self.stats()?, self.in_use()?);
        let mut done = Vec::new();
        for number in 0..count {
            let (id, target) = self.begin(base, target, number)?;
            sleep(Duration::from_micros(spread_ms * 1000 * number as u64 / count as u64));
            let request = serde_json::json!({ "request": id });
            let cancel = self.shim()?.send("cancel", fields(request))?;
            self.expect_cancel(cancel)?;
            done.extend(self.check_cancelled(id, base, &target)?);
        }
        self.compare_with_answers(&figures, &done)?;
        self.expect_in_use(before)
    }

    /// In the end no more files are open and no more processes run than these.
    pub(super) fn expect_in_use(&mut self, before: (usize, usize)) -> Checked {
        let mut found = Ok(before);
        until(self.port.patience, || {
            found = self.in_use();
            !matches!(found, Ok((files, processes)) if files > before.0 || processes > before.1)
        });
        let found = found?;
        if found.0 > before.0 || found.1 > before.1 {
            broken!("A12.7: (open files, processes) were {before:?}, and are {found:?} in the end");
        }
        Ok(())
    }

    /// How many files the pool has open, and how many processes it has started.
    pub(super) fn in_use(&mut self) -> Checked<(usize, usize)> {
        let shim = self.shim()?;
        let (own, mut pools) = (shim.pid(), shim.started());
        pools.retain(|pid| self.port.is_pool(*pid));
        let mut files = open_files(own).map_err(unfit)?;
        for pool in pools {
            files += open_files(pool).map_err(unfit)?;
        }
        Ok((files, self.aids()?.len()))
    }

    /// Stops the pool while an overlay is made on demand, by a process that hangs; or while many are.
    pub(super) fn stop_while_made(
        &mut self,
        count: Option<usize>,
        base: &str,
        target: &str,
    ) -> Checked {
        let mut acquires = Vec::new();
        for number in 0..count.unwrap_or(1) {
            acquires.push(self.begin(base, target, number)?);
        }
        if count.is_none() {
            self.await_stopped(acquires[0].0)?;
        }
        self.ask_to_stop()?;
        self.expect_no_processes()?;
        for (id, target) in acquires {
            self.expect_none_begins(id)?;
            match self.answer(id)? {
                Ok(acquired) => self.check_acquired(&acquired, base, &target)?,
                Err(_) => self.expect_nothing("A7.4: a failed acquire left", &target)?,
            }
        }
        Ok(())
    }

    /// After the stop, until an acquire is answered; but for one that is ended as it begins.
    fn expect_none_begins(&mut self, acquire: u64) -> Checked {
        let deadline = Instant::now() + self.port.patience;
        while Instant::now() < deadline && !self.shim()?.is_answered(acquire)? {
            self.expect_no_processes()?;
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// After the stop; what goes on for a moment is stopped, so that it doesn't end by itself before
    /// `create_timeout`, which is longer.
    fn expect_no_processes(&mut self) -> Checked {
        let mut left = self.aids();
        until(self.port.patience.min(SLACK), || {
            left = self.signal_aids(Signal::Stop).and_then(|_| self.aids());
            left.as_ref().is_ok_and(Vec::is_empty)
        });
        let left = left?;
        if !left.is_empty() {
            broken!("L11.3: processes are left after stop: {}", names(&left));
        }
        Ok(())
    }

    /// Changes a base image while an overlay of it is made ahead.
    pub(super) fn change_while_made(
        &mut self,
        base: &str,
        target: &str,
        image: Option<Image>,
    ) -> Checked {
        for number in 0..TRIES {
            let (id, target) = self.begin(base, target, number)?;
            match self.answer(id)? {
                Ok(acquired) => self.check_acquired(&acquired, base, &target)?,
                other => broken!("the answer is {}, not a success", told(&other)),
            }
            if self.await_being_made()? {
                break;
            }
        }
        let before = self.stats()?;
        match image {
            Some(image) => self.make_image(base, image)?,
            None => {
                set_modified(&self.file(base)?, SystemTime::now() - Duration::from_secs(10))?;
            }
        }
        let (id, target) = self.begin(base, target, TRIES)?;
        match self.answer(id)? {
            Ok(acquired) => self.check_acquired(&acquired, base, &target)?,
            // What serves all may be what is stopped.
            Err((name, _)) if name == "create-failed" => {
                self.expect_nothing("A7.4: a failed acquire left", &target)?;
            }
            Err(error) => broken!("C2.3: {}, not create-failed", told_error(&error)),
        }
        self.signal_aids(Signal::Cont)?;
        let mut after = self.stats()?;
        let deadline = Instant::now() + self.port.patience;
        while after.total() != self.size() {
            if Instant::now() >= deadline {
                broken!("R1.2: the shelf isn't filled again: {after:?}");
            }
            sleep(Duration::from_millis(5));
            after = self.stats()?;
        }
        let counters = before.counter("discarded").zip(after.counter("discarded"));
        if counters.is_none() && self.case.is_about("T2") {
            broken!("T2.4: there is no discarded");
        }
        let discarded = counters.map_or(0, |(before, after)| after - before);
        if discarded > before.total() {
            broken!("T2.5: {discarded} are discarded, though only {} were ready", before.total());
        }
        Ok(())
    }

    /// Acquires a ready overlay while a process hangs that makes another ahead.
    pub(super) fn acquire_while_made(&mut self, base: &str, target: &str) -> Checked {
        let mut hung = None;
        for number in 0..TRIES {
            self.acquire_pooled(base, target, number)?;
            hung = self.await_hung()?;
            if hung.is_some() {
                break;
            }
        }
        self.acquire_pooled(base, target, TRIES)?;
        if hung.is_some_and(|hung| !is_stopped(hung)) {
            broken!("C2.2: a pooled acquire waited for a process that hangs");
        }
        self.signal_aids(Signal::Cont).map(drop)
    }

    /// Acquires an overlay that is ready, whatever hangs.
    pub(super) fn acquire_pooled(&mut self, base: &str, target: &str, number: usize) -> Checked {
        let (id, target) = self.begin(base, target, number)?;
        match self.answer(id)? {
            Ok(acquired) if acquired["source"] == "pooled" => {
                self.check_acquired(&acquired, base, &target)
            }
            other => broken!("C2.2: the answer is {}, not pooled", told(&other)),
        }
    }

    /// Stops the first process that makes an overlay ahead; none where the shelf is full before.
    fn await_hung(&mut self) -> Checked<Option<Pid>> {
        let deadline = Instant::now() + self.port.patience;
        while Instant::now() < deadline {
            self.stop_aids()?;
            let aids = self.aids()?;
            if let Some(hung) = aids.iter().find(|aid| is_stopped(**aid)) {
                return Ok(Some(*hung));
            }
            // Not by the figures, which may have to wait for it. A file may be there before the process
            // that writes it.
            let is_written = |path: &PathBuf| {
                std::fs::metadata(self.outside(path)).is_ok_and(|found| found.len() > 0)
            };
            let made = self.overlays()?.iter().filter(|path| is_written(path)).count();
            if aids.is_empty() && i64::try_from(made).unwrap_or(i64::MAX) >= self.size() {
                return Ok(None);
            }
            sleep(Duration::from_micros(200));
        }
        broken!("R1.2: the shelf isn't filled again");
    }

    fn stop_aids(&mut self) -> Checked {
        for aid in self.aids()? {
            // Before it becomes another program it may stop its parent too.
            if !runs(aid, "setpriv") {
                let _ = kill_process(aid, Signal::Stop.number()); // it may have ended by itself
            }
        }
        Ok(())
    }

    /// Stops what makes an overlay ahead; false where the shelf is full before.
    fn await_being_made(&mut self) -> Checked<bool> {
        let deadline = Instant::now() + self.port.patience;
        while Instant::now() < deadline {
            self.stop_aids()?;
            let ready = self.stats()?.total();
            if ready == self.size() {
                self.signal_aids(Signal::Cont)?;
                return Ok(false);
            }
            let stands_still = self.aids()?.into_iter().any(is_stopped);
            if stands_still && i64::try_from(self.overlays()?.len()).unwrap_or(i64::MAX) > ready {
                return Ok(true);
            }
            sleep(Duration::from_micros(200));
        }
        broken!("R1.2: the shelf isn't filled again");
    }
}
