//! Others who want what the pool wants.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::json;

use super::answers::{told, told_error};
use super::case::Format;
use super::step::Signal;
use super::world::{World, broken, fields, unfit};
use crate::shim::Checked;

/// What somebody else writes to a file.
const STRANGE: &str = "a file of somebody else";

impl World<'_> {
    /// Starts the pool many times at once.
    pub(super) fn start_many(&mut self, count: usize, bases: &[String]) -> Checked {
        let bases: Vec<_> =
            bases.iter().map(|base| self.base(base, Format::Qcow2, false)).collect();
        let mut starts = Vec::new();
        for _ in 0..count {
            starts.push(self.shim()?.send("start", fields(json!({ "bases": bases })))?);
        }
        let mut started = 0;
        for start in starts {
            match self.answer(start)? {
                Ok(_) => started += 1,
                Err((name, _)) if name == "already-started" => {}
                Err(error) => broken!("L4.3: {}, not already-started", told_error(&error)),
            }
        }
        if started != 1 {
            broken!("L4.3: {started} of {count} racing starts succeeded");
        }
        Ok(())
    }

    /// Acquires one after the other, and meanwhile makes a file at the target, each time a little
    /// later.
    pub(super) fn acquire_contested(
        &mut self,
        count: usize,
        base: &str,
        target: &str,
        spread: Duration,
    ) -> Checked {
        for number in 0..count {
            let (id, target) = self.begin(base, target, number)?;
            sleep(spread.mul_f64(part_of(number, count)));
            let file = self.outside(&target);
            let is_ours = match File::create_new(&file) {
                Ok(mut file) => file.write_all(STRANGE.as_bytes()).map(|()| true).map_err(unfit)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(unfit(error)),
            };
            let target = target.display();
            match self.answer(id)? {
                Ok(_) if is_ours => broken!("A1.4: {target} was handed over, and is another's"),
                Ok(acquired) => self.check_acquired(&acquired, base, &file)?,
                Err((name, _)) if is_ours && name == "already-exists" => {}
                Err(error) => broken!("A1.4: {} for {target}", told_error(&error)),
            }
            if is_ours && std::fs::read_to_string(&file).ok().as_deref() != Some(STRANGE) {
                broken!("A1.5: {target} was there, and was changed");
            }
        }
        Ok(())
    }

    /// Acquires at one target again and again: what names files had that were made beside it,
    /// somebody else takes before the next.
    pub(super) fn acquire_reusing_names(&mut self, base: &str, target: &str) -> Checked {
        let mut made = self.names_made(base, target, 0)?;
        let precious = self.folder.join("precious");
        std::fs::write(&precious, STRANGE).map_err(unfit)?;
        for (number, is_link) in [(1, true), (2, false)] {
            let mut taken = Vec::new();
            for name in made.iter().flat_map(|name| counted_on(name)) {
                let path = self.outside(&self.path(target)?).with_file_name(name);
                if path.symlink_metadata().is_ok() {
                    continue;
                }
                if is_link {
                    std::os::unix::fs::symlink(&precious, &path).map_err(unfit)?;
                } else {
                    std::fs::write(&path, STRANGE).map_err(unfit)?;
                }
                let metadata = path.symlink_metadata().map_err(unfit)?;
                taken.push((path, metadata.ino()));
            }
            made = self.names_made(base, target, number)?;
            if std::fs::read_to_string(&precious).map_err(unfit)? != STRANGE {
                broken!("A11.3: what a link led to was written to, which lay where drafts lie");
            }
            for (path, inode) in taken {
                let handed_over = self.acquired.keys().any(|(_, its)| *its == inode);
                let is_whole =
                    is_link || std::fs::read_to_string(&path).is_ok_and(|text| text == STRANGE);
                if handed_over || !is_whole {
                    broken!("A11.3: {} was another's, and was used", path.display());
                }
                std::fs::remove_file(&path).map_err(unfit)?;
            }
        }
        Ok(())
    }

    /// Acquires, moves the overlay away, and gives the names of what was made beside it meanwhile.
    fn names_made(&mut self, base: &str, target: &str, number: usize) -> Checked<Vec<String>> {
        let path = self.path(target)?;
        let file = self.outside(&path);
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(unfit)?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&watch, directory, WatchFlags::CREATE).map_err(unfit)?;
        let (id, _) = self.begin(base, target, 0)?;
        match self.answer(id)? {
            Ok(acquired) => {
                self.check_acquired(&acquired, base, &path)?;
                let away = format!("{}.{number}", path.display());
                std::fs::rename(&file, self.outside(Path::new(&away))).map_err(unfit)?;
                for its in self.acquired.values_mut().filter(|its| **its == path) {
                    *its = away.clone().into();
                }
            }
            Err((name, _)) if name == "create-failed" && number > 0 => {}
            other => broken!("A3.1: the answer is {}, not a success", told(&other)),
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        let mut made = Vec::new();
        loop {
            match events.next() {
                Ok(event) => {
                    let own = file.file_name().unwrap_or_default().as_bytes();
                    let name = event.file_name().filter(|name| name.to_bytes() != own);
                    made.extend(name.map(|name| name.to_string_lossy().into_owned()));
                }
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(unfit(error)),
            }
        }
        made.sort();
        made.dedup();
        Ok(made)
    }

    /// Acquires a ready overlay while a process hangs that makes another.
    pub(super) fn acquire_beside_hung(
        &mut self,
        hung: (&str, &str),
        base: &str,
        target: &str,
    ) -> Checked {
        let (other, _) = self.begin(hung.0, hung.1, 0)?;
        let hangs = self.await_stopped(other)?;
        self.acquire_pooled(base, target, 0)?;
        if hangs && self.shim()?.is_answered(other)? {
            broken!("C2.2: a pooled acquire waited for a process that hangs");
        }
        self.signal_aids(Signal::Cont)?;
        let path = self.path(hung.1)?;
        match self.answer(other)? {
            Ok(acquired) => self.check_acquired(&acquired, hung.0, &path),
            Err((name, _)) if name == "create-failed" => {
                self.expect_nothing("A7.4: a failed acquire left", &path)
            }
            Err(error) => broken!("C2.3: {}, not create-failed", told_error(&error)),
        }
    }
}

/// A name, and those that have a greater last number.
fn counted_on(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(last) = name.bytes().rposition(|byte| is_digit(&byte)) else { return names };
    let first = name.bytes().take(last).rposition(|byte| !is_digit(&byte)).map_or(0, |at| at + 1);
    if let Ok(number) = name[first..=last].parse::<u64>() {
        let width = last + 1 - first;
        let next = (1..=3).map_while(|more| number.checked_add(more));
        names.extend(
            next.map(|number| format!("{}{number:0width$}{}", &name[..first], &name[last + 1..])),
        );
    }
    names
}

/// A number as a part of another one.
fn part_of(number: usize, all: usize) -> f64 {
    let as_float = |number: usize| u32::try_from(number).map_or(0.0, f64::from);
    as_float(number) / as_float(all).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_on_from_their_last_number() {
        assert_eq!(counted_on(".7-9.tmp"), [".7-9.tmp", ".7-10.tmp", ".7-11.tmp", ".7-12.tmp"]);
        assert_eq!(counted_on("08"), ["08", "09", "10", "11"]);
        assert_eq!(counted_on("draft"), ["draft"]);
        let long = "9".repeat(30);
        assert_eq!(counted_on(&long), std::slice::from_ref(&long));
    }
}
