//! Our pool in a process of its own, so that it can be harmed and killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseImage, BaseRef, OverlayOptions, References};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use super::artefacts::log_all;
use super::faults::strace::{Fault, Strace};
use super::processes::runs;
use super::shim::{Answer, Checked, Failure, Shim, until};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The size of the shelves.
pub(crate) const SIZE: usize = 2;

/// How the pool of a test is made.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) creator: CreatorKind,
    pub(crate) restock_interval: Duration,
    pub(crate) create_timeout: Duration,
}

impl Setting {
    /// A pool that restocks at once.
    pub(crate) fn new(creator: CreatorKind) -> Self {
        let create_timeout = Duration::from_secs(10);
        Self { creator, restock_interval: Duration::ZERO, create_timeout }
    }
}

/// A process with one pool. What its pool directory lies in is `pool` in its folder.
pub(crate) struct PoolProcess {
    shim: Shim,
    pid: Pid,
    folder: PathBuf,
}

impl PoolProcess {
    pub(crate) fn launch(folder: &Path, setting: Setting) -> Self {
        Self::under(Vec::new(), folder, setting)
    }

    /// With `prefix` before its command line.
    pub(crate) fn under(prefix: Vec<String>, folder: &Path, setting: Setting) -> Self {
        let Setting { creator, restock_interval, create_timeout } = setting;
        let program = std::env::var("NEXTEST_BIN_EXE_overlay-pool")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_overlay-pool").to_owned());
        let mut argv = vec!["env".to_owned(), log_all()];
        argv.extend(prefix);
        argv.extend([&program, "shim", "--creator", creator.as_str()].map(str::to_owned));
        let shim = Shim::start(&argv, folder, "pool-process", PATIENCE).expect("the shim starts");
        let candidates = || shim.started().into_iter().chain([shim.pid()]);
        let pid = candidates().find(|pid| runs(*pid, "overlay-pool")).expect("the pool's process");
        let mut process = Self { shim, pid, folder: folder.to_owned() };
        let config = json!({
            "max_concurrent_vms": 2 * SIZE,
            "images_path": folder.join("images"),
            "pool_dir": folder.join("pool"),
            "restock_interval_ms": millis(restock_interval),
            "create_timeout_ms": millis(create_timeout),
        });
        process.ask("new", json!({ "config": config })).expect("an answer").expect("a new pool");
        process
    }

    /// Under strace, which begins to count and to make its fault now, and not in processes that
    /// the pool starts.
    pub(crate) fn traced(fault: Option<&Fault>, folder: &Path, setting: Setting) -> (Self, Strace) {
        let (strace, prefix) = Strace::new(folder, fault);
        let process = Self::under(prefix, folder, setting);
        strace.attach(process.pid, PATIENCE);
        (process, strace)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Everything that the pool has started and that still runs.
    pub(crate) fn children(&self) -> Vec<Pid> {
        self.shim.started().into_iter().filter(|pid| *pid != self.pid).collect()
    }

    pub(crate) fn send(&mut self, request: &str, of: Value) -> Checked<u64> {
        self.shim.send(request, fields(of))
    }

    pub(crate) fn answer(&mut self, id: u64) -> Checked<Answer> {
        self.shim.answer(id)
    }

    pub(crate) fn ask(&mut self, request: &str, of: Value) -> Checked<Answer> {
        self.shim.ask(request, fields(of))
    }

    pub(crate) fn start(&mut self, bases: &[&Path]) -> Checked<Answer> {
        let bases: Vec<_> = bases.iter().copied().map(base).collect();
        self.ask("start", json!({ "bases": bases }))
    }

    pub(crate) fn acquire(&mut self, of: &Path, target: &Path) -> Checked<Answer> {
        self.ask("acquire", json!({ "base": base(of), "target": target }))
    }

    pub(crate) fn stop(&mut self) -> Checked<Answer> {
        self.ask("stop", json!({}))
    }

    /// The figures.
    pub(crate) fn stats(&mut self) -> Checked<Value> {
        let stats = self.ask("stats", json!({}))?;
        stats.map_err(|error| Failure::Broken(format!("stats: {error:?}")))
    }

    /// The number of ready overlays of each base image.
    pub(crate) fn ready(&mut self) -> Checked<BTreeMap<PathBuf, usize>> {
        let stats = self.stats()?;
        Ok(serde_json::from_value(stats["ready"].clone()).expect("figures"))
    }

    /// Waits until every shelf that the pool has is full.
    pub(crate) fn settle(&mut self) -> Checked<BTreeMap<PathBuf, usize>> {
        let mut last = Ok(BTreeMap::new());
        let full = until(PATIENCE, || {
            last = self.ready();
            last.as_ref().map_or(true, |ready| ready.values().all(|count| *count == SIZE))
        });
        match last {
            Ok(ready) if !full => Err(Failure::Broken(format!("R1: never full: {ready:?}"))),
            last => last,
        }
    }

    /// The pool directories that there are.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        directories(&self.folder)
    }

    /// Asks it to exit, and waits for it and all it started.
    pub(crate) fn exit(self) -> Checked {
        self.shim.exit()
    }

    /// Kills the pool's process alone, and waits for the end of all it started.
    pub(crate) fn kill(self) -> Checked {
        let _ = kill_process(self.pid, Signal::KILL);
        self.expect_gone()
    }

    /// Waits for the end of everything, after the process was killed.
    pub(crate) fn expect_gone(self) -> Checked {
        self.shim.kill()
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A qcow2 base image in a request.
pub(crate) fn base(path: &Path) -> Value {
    json!({ "path": path, "format": "qcow2" })
}

/// The pool directories below `pool` in a folder.
pub(crate) fn directories(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("pool")).into_iter().flatten().flatten();
    let pools = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"pool-"));
    pools.map(|entry| entry.path()).collect()
}

/// Whether these are all bytes of an overlay of `base`, as an undisturbed creator writes them.
pub(crate) fn is_whole(bytes: &[u8], base: &Path, virtual_size: Option<u64>) -> bool {
    bytes == whole(base, virtual_size)
}

/// All bytes of an overlay of `base`, as an undisturbed creator writes them.
pub(crate) fn whole(base: &Path, virtual_size: Option<u64>) -> Vec<u8> {
    let image = BaseImage::open(&BaseRef::qcow2(base), References::Deny).expect("a base image");
    let options = OverlayOptions { virtual_size, ..OverlayOptions::default() };
    let overlay = image.overlay(options).expect("an overlay");
    let mut expected = vec![0; usize::try_from(overlay.file_len()).expect("a short file")];
    for extent in overlay.extents() {
        let start = usize::try_from(extent.offset).expect("a short file");
        expected[start..start + extent.bytes.len()].copy_from_slice(&extent.bytes);
    }
    expected
}
