//! What a step expects to see.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::told_error;
use super::step::Step;
use super::world::{World, broken, names, unfit};
use crate::shim::{Checked, until};

/// The pool's figures, as the shim gives them.
#[derive(Debug, Deserialize)]
pub(super) struct Figures {
    ready: BTreeMap<PathBuf, i64>,
    pooled: Option<i64>,
    on_demand: Option<i64>,
    failed: Option<i64>,
    discarded: Option<i64>,
}

impl Figures {
    pub(super) fn total(&self) -> i64 {
        self.ready.values().sum()
    }

    /// Those of one shelf, known by its resolved path.
    pub(super) fn ready(&self, base: &Path) -> i64 {
        self.ready.get(base).copied().unwrap_or(0)
    }

    /// A counter; none where the port has none, of which rule T2's cases tell.
    pub(super) fn counter(&self, name: &str) -> Option<i64> {
        match name {
            "pooled" => self.pooled,
            "on_demand" => self.on_demand,
            "failed" => self.failed,
            _ => self.discarded,
        }
    }
}

impl World<'_> {
    /// The figures. No shelf is ever above its size.
    pub(super) fn stats(&mut self) -> Checked<Figures> {
        let answer = self.ask("stats", json!({}))?;
        let value = answer.map_err(|error| unfit(format!("stats: {}", told_error(&error))))?;
        let figures: Figures = serde_path_to_error::deserialize(value)
            .map_err(|error| unfit(format!("stats: {error}")))?;
        for (base, ready) in &figures.ready {
            let is_it =
                |path: &str| self.folder.join(path).canonicalize().ok().as_ref() == Some(base);
            let shelves = self.case.shelves(is_it);
            let most = self.size() * i64::try_from(shelves).unwrap_or(i64::MAX);
            if *ready > most {
                broken!("R1.3: {} has {ready} ready overlays, more than {most}", base.display());
            }
        }
        Ok(figures)
    }

    pub(super) fn look(&mut self, step: &Step) -> Checked {
        match step {
            Step::Stats { wait, .. } => {
                let mut last = self.compare_figures(step)?;
                if *wait {
                    let mut failure = Ok(());
                    until(self.port.patience, || {
                        match self.compare_figures(step) {
                            Ok(difference) => last = difference,
                            Err(error) => failure = Err(error),
                        }
                        last.is_none() || failure.is_err()
                    });
                    failure?;
                }
                match last {
                    None => Ok(()),
                    // Which rule that breaks, the case knows.
                    Some(difference) => broken!("{difference}"),
                }
            }
            Step::Sound { .. } => self.expect_sound(step),
            Step::File { path, text } => match std::fs::read_to_string(self.file(path)?) {
                Ok(found) if found == *text => Ok(()),
                Ok(found) => broken!("{path} holds {found:?}, not {text:?}"),
                Err(error) => broken!("{path} can't be read: {error}"),
            },
            Step::Absent { path } => match self.file(path)?.symlink_metadata() {
                Ok(_) => broken!("{path} is there"),
                Err(_) => Ok(()),
            },
            Step::Empty { path } => match names(&self.file(path)?).as_slice() {
                [] => Ok(()),
                found => broken!("{path} holds {found:?}"),
            },
            Step::OnlyAcquired { path } => self.expect_only_acquired(path),
            Step::Directory { path, mode } => match self.file(path)?.metadata() {
                Ok(found) if found.is_dir() => match found.permissions().mode() & 0o7777 {
                    found if found == *mode => Ok(()),
                    found => broken!("{path} has mode {found:o}, not {mode:o}"),
                },
                Ok(_) => broken!("{path} is no directory"),
                Err(error) => broken!("{path} is no directory: {error}"),
            },
            Step::Pool { directories, overlays, held, wait } => {
                let mut found = self.compare_directories(*directories, *overlays);
                if *wait {
                    until(self.port.patience, || {
                        found = self.compare_directories(*directories, *overlays);
                        found.is_ok()
                    });
                }
                if *held { found.and_then(|()| self.expect_held()) } else { found }
            }
            other => Err(unfit(format!("{other:?} is nothing to look at"))),
        }
    }

    /// By `qemu-img`.
    fn expect_sound(&self, step: &Step) -> Checked {
        let Step::Sound { overlay, base, format, virtual_size_mib, virtual_size } = step else {
            return Err(unfit("no overlay"));
        };
        let overlay = self.file(overlay)?;
        if let Err(error) = overlay.symlink_metadata() {
            broken!("{} can't be seen: {error}", overlay.display());
        }
        let base = self.path(base)?.canonicalize().map_err(unfit)?;
        let info =
            self.oracle(&["A9.1"], [ostr("info"), ostr("--output=json"), overlay.as_ref()])?;
        let info: Value = serde_json::from_str(&info).map_err(unfit)?;
        let data = &info["format-specific"]["data"];
        let size = virtual_size.unwrap_or(virtual_size_mib << 20);
        let recorded = &info["backing-filename-format"];
        let explicit: &[&str] = if recorded.is_null() { &["A8.3"] } else { &["A8.4"] };
        let (path, features): (&[&str], &[&str]) = (&["A8.2", "A8.1"], &["A9.3"]);
        let expected = [
            (&["A9.1"][..], "format", &info["format"], json!("qcow2")),
            (path, "full-backing-filename", &info["full-backing-filename"], json!(base)),
            (path, "backing-filename", &info["backing-filename"], json!(base)),
            (explicit, "backing-filename-format", recorded, json!(format.as_str())),
            (
                &["A9.2", "A9.6", "A9.9", "A10.1"],
                "virtual-size",
                &info["virtual-size"],
                json!(size),
            ),
            (features, "cluster-size", &info["cluster-size"], json!(131_072)),
            (features, "extended-l2", &data["extended-l2"], json!(true)),
            (features, "lazy-refcounts", &data["lazy-refcounts"], json!(true)),
        ];
        let (mut ids, mut wrong) = (Vec::new(), Vec::new());
        for (broken, name, found, wanted) in expected {
            if *found != wanted {
                ids.push(self.broken_of(broken));
                wrong.push(format!("{name} is {found}, not {wanted}"));
            }
        }
        if !wrong.is_empty() {
            ids.dedup();
            ids.sort_by_key(|id| !self.is_proved(id));
            broken!("{}: by qemu-img info its {}", ids.join(", "), wrong.join(", its "));
        }
        self.oracle(&["A9.1"], [ostr("check"), ostr("-q"), overlay.as_ref()])?;
        let format = ostr(format.as_str());
        let compared = [overlay.as_ref(), base.as_ref()];
        let compare = [ostr("compare"), ostr("-F"), format, ostr("-q")];
        self.oracle(&["A9.4", "A10.1"], [&compare[..], &compared].concat())?;
        Ok(())
    }

    /// Of the promises that what is wrong may break, that which the case proves.
    pub(super) fn broken_of<'a>(&self, ids: &[&'a str]) -> &'a str {
        ids.iter().find(|id| self.is_proved(id)).unwrap_or(&ids[0])
    }

    fn is_proved(&self, id: &str) -> bool {
        self.case.promises.iter().any(|its| its.to_string() == id)
    }

    /// Runs `qemu-img`; where it finds fault, so does the case.
    fn oracle<'o>(
        &self,
        ids: &[&str],
        args: impl IntoIterator<Item = &'o OsStr>,
    ) -> Checked<String> {
        let args: Vec<_> = args.into_iter().collect();
        let output = Command::new("qemu-img").args(&args).output().map_err(unfit)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            broken!(
                "{}: qemu-img {args:?}: {} {}{said}",
                self.broken_of(ids),
                output.status,
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn expect_only_acquired(&self, path: &str) -> Checked {
        let directory = self.path(path)?;
        let mut others = Vec::new();
        until(self.port.patience, || {
            others = names(&self.outside(&directory));
            others.retain(|name| !self.is_acquired(&directory.join(name)));
            others.is_empty()
        });
        match others.as_slice() {
            [] => Ok(()),
            others => broken!("{path} holds {others:?}, which nobody acquired"),
        }
    }

    /// A shared lock can't be had on what is locked exclusively.
    fn expect_held(&self) -> Checked {
        for directory in self.pool_directories() {
            let file = File::open(self.outside(&directory)).map_err(unfit)?;
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => return Err(unfit(error)),
                Ok(()) => broken!("D1.2: {} can be locked by others", directory.display()),
            }
        }
        Ok(())
    }

    fn compare_directories(&self, directories: usize, overlays: Option<usize>) -> Checked {
        let found = self.pool_directories();
        if found.len() != directories {
            broken!(
                "directories named pool- and 32 hexadecimal digits (D1.1): {found:?}, and not {directories}"
            );
        }
        let files = self.overlays()?;
        if let Some(overlays) = overlays.filter(|overlays| *overlays != files.len()) {
            broken!("there are not {overlays} ready overlays but {}: {files:?}", files.len());
        }
        for file in files {
            let found = self.outside(&file).symlink_metadata().map_err(unfit)?;
            if !found.is_file() {
                broken!("A11.1: {} is no regular file", file.display());
            }
            self.check_private(&file, &found, 0o600)?;
        }
        Ok(())
    }

    /// What is different from what the step wants.
    fn compare_figures(&mut self, step: &Step) -> Checked<Option<String>> {
        let Step::Stats { ready, pooled, on_demand, failed, discarded, wait: _ } = step else {
            return Err(unfit("no figures"));
        };
        let figures = self.stats()?;
        let wanted = ready.as_ref().map(|ready| {
            let key = |path: &String| {
                let path = self.folder.join(path);
                path.canonicalize().unwrap_or(path)
            };
            let mut wanted = BTreeMap::new();
            for (path, count) in ready {
                wanted.insert(key(path), i64::try_from(*count).unwrap_or(i64::MAX));
            }
            wanted
        });
        if let Some(wanted) = wanted.filter(|wanted| *wanted != figures.ready) {
            return Ok(Some(format!("ready are {:?}, not {wanted:?}", figures.ready)));
        }
        for (name, wanted) in [
            ("pooled", pooled),
            ("on_demand", on_demand),
            ("failed", failed),
            ("discarded", discarded),
        ] {
            let Some(wanted) = wanted else { continue };
            match figures.counter(name) {
                Some(found) if i64::try_from(*wanted).ok() == Some(found) => {}
                Some(found) => return Ok(Some(format!("{name} is {found}, not {wanted}"))),
                None if self.case.is_about("T2") => {
                    return Ok(Some(format!("there is no {name}, which is {wanted}")));
                }
                None => {}
            }
        }
        Ok(None)
    }
}

fn ostr(text: &str) -> &OsStr {
    text.as_ref()
}
