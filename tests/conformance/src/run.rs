//! Runs a case against a port.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answers::{told, told_error, wanted};
use super::case::{Case, Format};
use super::port::Port;
use super::step::{Source, Step};
use super::world::{World, broken, fields, unfit};
use crate::finding::{Finding, Place};
use crate::shim::{Answer, Checked, Shim, until};

/// Judges a port by a case, in this process.
///
/// # Errors
///
/// What was found fault with.
pub(crate) fn run(case: &Case, port: &Port, folder: &Path, kept: &Path) -> Result<(), Finding> {
    let mut world =
        World::new(case, port, folder, kept).map_err(|failure| Finding { step: None, failure })?;
    let at = |number, written: &str, failure| {
        let step = Place { number, written: written.to_owned() };
        Finding { step: Some(step), failure }
    };
    for (number, step) in (1..).zip(&case.steps) {
        let done = world.step(step.get_ref());
        done.map_err(|failure| at(number, case.written(step), failure))?;
    }
    world.end().map_err(|failure| at(case.steps.len() + 1, "the end of every case", failure))
}

/// What is at a path: nothing, a link to somewhere, or bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Link(PathBuf),
    Bytes(Vec<u8>),
}

pub(super) fn there(path: &Path) -> There {
    match path.read_link() {
        Ok(to) => There::Link(to),
        Err(_) => std::fs::read(path).map_or(There::Nothing, There::Bytes),
    }
}

/// The answer is a success, or one of these errors whose message says all of that.
fn expect(answer: Answer, error: &[String], says: &[String]) -> Checked<Value> {
    match answer {
        Ok(value) if error.is_empty() => Ok(value),
        Err((name, message)) if error.contains(&name) => {
            let id = if name == "bad-path" { "A13.3" } else { "A7.2" };
            for text in says {
                if !message.contains(text.as_str()) {
                    broken!("{id}: the message doesn't name {text}: {message}");
                }
            }
            Ok(Value::Null)
        }
        other => broken!("the answer is {}, not {}", told(&other), wanted(error)),
    }
}

impl World<'_> {
    fn step(&mut self, step: &Step) -> Checked {
        // In a mount namespace of the shim nothing can be seen without one.
        if self.case.mounts_anything() || !step.is_look() {
            self.shim()?;
        }
        match step {
            Step::New { max_concurrent_vms, pool_size } => {
                let size = self.new_pool(*max_concurrent_vms)?;
                match (size, pool_size) {
                    (_, None) => Ok(()),
                    (Some(size), Some(wanted)) if size == *wanted => Ok(()),
                    (Some(size), Some(wanted)) => broken!("S1.1: the size is {size}, not {wanted}"),
                    (None, Some(wanted)) => broken!("S1.1: pool_size is null, not {wanted}"),
                }
            }
            Step::Start { bases, format, relative, error } => {
                let base = |path: &String| self.base(path, *format, *relative);
                let bases = bases.as_ref().map(|bases| bases.iter().map(base).collect::<Vec<_>>());
                let answer = self.ask("start", json!({ "bases": bases }))?;
                expect(answer, error, &[]).map(drop)?;
                self.expect_new_names()
            }
            Step::StartMany { count, bases } => self.start_many(*count, bases),
            Step::StartCancelled { .. } => self.start_cancelled(step),
            Step::Stop {} => self.stop(),
            Step::Acquire { .. } => self.acquire(step),
            Step::AcquireMany { count, base, target, pooled, on_demand, exists } => {
                let answers = self.acquire_many(*count, base, target)?;
                let (mut sources, mut existing) = (BTreeMap::new(), 0);
                for answer in answers {
                    match answer {
                        Ok(ok) => *sources.entry(ok["source"].to_string()).or_insert(0) += 1,
                        Err((name, _)) if name == "already-exists" => existing += 1,
                        Err(error) => broken!("an acquire failed: {}", told_error(&error)),
                    }
                }
                let of = |source: Source| {
                    let name = json!(source.as_str()).to_string();
                    sources.get(&name).copied().unwrap_or(0)
                };
                let found = (of(Source::Pooled), of(Source::OnDemand), existing);
                let wanted = (pooled.unwrap_or(found.0), on_demand.unwrap_or(found.1), *exists);
                if found != wanted {
                    broken!("(pooled, on-demand, already-exists) are {found:?}, not {wanted:?}");
                }
                Ok(())
            }
            Step::AcquireSteadily { count, base, target, not_sooner_than_ms: ms } => {
                self.acquire_steadily(*count, base, target, Duration::from_millis(*ms))
            }
            Step::AcquireBeforeIdle { base, target } => self.acquire_before_idle(base, target),
            Step::CompareIntervals { base, target } => self.compare_intervals(base, target),
            Step::LongerPauses {} => self.expect_longer_pauses(),
            Step::AcquireContested { count, base, target, spread_ms: ms } => {
                self.acquire_contested(*count, base, target, Duration::from_millis(*ms))
            }
            Step::AcquireReusingNames { base, target } => self.acquire_reusing_names(base, target),
            Step::AcquireBesideHung { hung_base, hung_target, base, target } => {
                self.acquire_beside_hung((hung_base, hung_target), base, target)
            }
            Step::AcquireCancelled { count, base, target, spread_ms: Some(ms), .. } => {
                self.acquire_cancelled_apart(*count, base, target, *ms)
            }
            Step::AcquireCancelled { count, base, target, while_stopped: false, .. } => {
                self.acquire_cancelled(*count, base, target)
            }
            Step::AcquireCancelled { count, base, target, stays_stopped, .. } => {
                self.acquire_cancelled_while_stopped(*count, base, target, *stays_stopped)
            }
            Step::StopWhileMade { count, base, target } => {
                self.stop_while_made(*count, base, target)
            }
            Step::ChangeWhileMade { base, target, image } => {
                self.change_while_made(base, target, *image)
            }
            Step::AcquireWhileMade { base, target } => self.acquire_while_made(base, target),
            Step::AcquireKilled { count, base, target } => {
                self.acquire_killed(*count, base, target)
            }
            Step::AcquireDisturbed { signal, count, base, target } => {
                self.acquire_disturbed(*signal, *count, base, target)
            }
            Step::Chdir { path } => {
                let path = self.path(path)?;
                let answer = self.ask("chdir", json!({ "path": path }))?;
                expect(answer, &[], &[]).map(drop)
            }
            Step::Use { shim } => {
                self.use_shim(shim);
                self.shim().map(drop)
            }
            Step::Kill {} => self.take_shim().map_or(Ok(()), Shim::kill),
            Step::Exit {} => self.take_shim().map_or(Ok(()), Shim::exit),
            Step::HangUp {} => self.take_shim().map_or(Ok(()), Shim::hang_up),
            Step::Wait { ms } => {
                sleep(Duration::from_millis(*ms));
                Ok(())
            }
            Step::Stats { .. } => self.look(step),
            look if look.is_look() => self.look(look),
            fault => self.make_fault(fault),
        }
    }

    fn acquire(&mut self, step: &Step) -> Checked {
        let Step::Acquire {
            base,
            target,
            format,
            virtual_size_mib,
            virtual_size,
            relative,
            source,
            error,
            may_succeed,
            says,
        } = step
        else {
            return Err(unfit("no acquire"));
        };
        let mut request = self.acquire_request(base, *format, target, *relative)?;
        if let Some(size) = virtual_size.or(virtual_size_mib.map(|mib| mib << 20)) {
            request["virtual_size"] = size.into();
        }
        let target = self.path(target)?;
        let before = there(&self.outside(&target));
        let answer = self.ask("acquire", request)?;
        let failed = answer.is_err();
        let acquired = match answer {
            Ok(acquired) if *may_succeed => acquired,
            answer => expect(answer, error, says)?,
        };
        if failed {
            let after = there(&self.outside(&target));
            if before != after {
                broken!("a failed acquire changed {}: {after:?}", target.display());
            }
            return Ok(());
        }
        self.check_acquired(&acquired, base, &target)?;
        match source {
            Some(source) if acquired["source"] != source.as_str() => {
                broken!("its source is {}, not {:?}", acquired["source"], source.as_str())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn acquire_request(
        &self,
        base: &str,
        format: Format,
        target: &str,
        relative: bool,
    ) -> Checked<Value> {
        let base = self.base(base, format, relative);
        let target = if relative { PathBuf::from(target) } else { self.path(target)? };
        Ok(json!({ "base": base, "target": target }))
    }

    pub(super) fn check_acquired(
        &mut self,
        acquired: &Value,
        base: &str,
        target: &Path,
    ) -> Checked {
        let base = self.folder.join(base).canonicalize().map_err(unfit)?;
        if acquired["base"] != json!(base) || acquired["target"] != json!(target) {
            broken!("A2.4: base and target are {acquired}, not {base:?} and {target:?}");
        }
        self.handed_over(target)
    }

    pub(super) fn stop(&mut self) -> Checked {
        let before = self.pool_directories();
        self.ask_to_stop()?;
        let after = self.pool_directories();
        self.gone.extend(before.into_iter().filter(|directory| !after.contains(directory)));
        self.expect_no_aid("after stop").map_err(|failure| failure.at("L11.3"))
    }

    pub(super) fn ask_to_stop(&mut self) -> Checked {
        let answer = self.ask("stop", json!({}))?;
        expect(answer, &[], &[]).map(drop)
    }

    fn start_cancelled(&mut self, step: &Step) -> Checked {
        let Step::StartCancelled { bases, none_done, while_made } = step else {
            return Err(unfit("no start"));
        };
        let bases: Vec<_> =
            bases.iter().map(|base| self.base(base, Format::Qcow2, false)).collect();
        let before = self.directories();
        let start = self.shim()?.send("start", fields(json!({ "bases": bases })))?;
        let deadline = Instant::now() + self.port.patience;
        while *while_made
            && self.overlays()?.is_empty()
            && !self.shim()?.is_answered(start)?
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(1));
        }
        self.ask("cancel", json!({ "request": start }))?.map_err(|error| unfit(error.1))?;
        let is_early = *while_made
            && !self.shim()?.is_answered(start)?
            && 2 * self.overlays()?.len() < bases.len() * usize::try_from(self.size()).unwrap_or(0);
        match self.answer(start)? {
            Ok(_) if *none_done || is_early => {
                broken!("L7.1: it was cancelled before, but succeeds")
            }
            Ok(_) => self.stop(),
            Err((name, _)) if name == "cancelled" => {
                // A creation under way may have to end first.
                if !until(self.port.patience, || self.directories() == before) {
                    broken!("L7.1: left are {:?}", self.directories());
                }
                let alone = self.expect_no_aid("after a cancelled start");
                alone.map_err(|failure| failure.at("L7.1"))
            }
            Err(error) => broken!("L7.1: {}, not cancelled", told_error(&error)),
        }
    }

    /// Nothing that the shim has started is left, but for the pool itself.
    fn expect_no_aid(&mut self, when: &str) -> Checked {
        let port = self.port;
        self.shim()?.expect_alone_but(when, |pid| port.is_pool(pid))
    }

    /// A directory's name is random: it has little of those before it, and three of them have next
    /// to nothing in common (five digits once in ten million times).
    fn expect_new_names(&self) -> Checked {
        let digits = |path: &PathBuf| path.to_string_lossy().bytes().rev().take(32).collect();
        let names: Vec<Vec<u8>> =
            self.gone.iter().chain(&self.pool_directories()).map(digits).collect();
        if let [first, others @ ..] = names.as_slice()
            && others.len() >= 2
        {
            let is_same = |at: &usize| others.iter().all(|other| other.get(*at) == first.get(*at));
            let same = (0..32).filter(is_same).count();
            if same >= 5 {
                broken!("D1.1: {} names have {same} digits in common", names.len());
            }
        }
        for new in self.pool_directories() {
            for old in &self.gone {
                let (its, olds) = (new.to_string_lossy(), old.to_string_lossy());
                let digits = its.chars().rev().zip(olds.chars().rev()).take(32);
                let same = digits.filter(|(its, olds)| its == olds).count();
                if same > 16 {
                    broken!("D1.1: {} has {same} digits of {}", new.display(), old.display());
                }
            }
        }
        Ok(())
    }

    /// The pool directories, and whether there is one that holds them.
    fn directories(&self) -> (Vec<PathBuf>, bool) {
        let parent = self.outside(&self.folder.join(&self.case.config.pool_dir));
        (self.pool_directories(), parent.exists())
    }

    /// Every case ends so.
    fn end(mut self) -> Checked {
        for shim in self.running() {
            self.use_shim(&shim);
            self.stop()?;
            self.check_end()?;
        }
        if let [directory, ..] = self.pool_directories().as_slice() {
            broken!("L11.2: {} is left", directory.display());
        }
        for shim in self.running() {
            self.use_shim(&shim);
            self.take_shim().map_or(Ok(()), Shim::exit)?;
        }
        Ok(())
    }

    /// Acquired overlays are still there, and no base image was written to.
    fn check_end(&self) -> Checked {
        use std::os::unix::fs::MetadataExt;
        for (id, target) in &self.acquired {
            let found = self.outside(target).symlink_metadata().ok();
            if found.map(|found| (found.dev(), found.ino())) != Some(*id) {
                broken!("L11.6: {} is gone or another", target.display());
            }
        }
        for (path, bytes) in &self.images {
            if std::fs::read(path).map_err(unfit)? != *bytes {
                broken!("A9.5: the base image {} was changed", path.display());
            }
        }
        Ok(())
    }
}
