//! What a case has around it: its folder, the shims that run, and what they were given.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{getegid, geteuid};
use serde_json::{Map, Value, json};

use super::answers::told_error;
use super::case::{Case, Config, Format, Image};
use super::port::Port;
use crate::qemu;
use crate::shim::{Answer, Checked, Failure, Shim};

pub(crate) struct World<'a> {
    pub(super) case: &'a Case,
    pub(super) port: &'a Port,
    pub(super) folder: &'a Path,
    /// Where base images lie that other cases want too.
    kept: &'a Path,
    shims: HashMap<String, Shim>,
    current: String,
    /// The bytes of each base image as the last step left them.
    pub(super) images: BTreeMap<PathBuf, Vec<u8>>,
    /// Pool directories that were removed when their pool was stopped.
    pub(super) gone: Vec<PathBuf>,
    /// Acquired overlays by device and inode.
    pub(super) acquired: HashMap<(u64, u64), PathBuf>,
    pub(super) max_concurrent_vms: i64,
    pub(super) restock_interval_ms: u64,
    pub(super) shelf_idle_ms: Option<u64>,
}

/// Fails the case for a rule that is broken.
macro_rules! broken {
    ($($message:tt)*) => {
        return Err($crate::shim::Failure::Broken(format!($($message)*)))
    };
}
pub(super) use broken;

/// A step of the case itself can't be done.
pub(super) fn unfit(what: impl std::fmt::Display) -> Failure {
    Failure::Unfit(what.to_string())
}

/// The fields of a request.
pub(super) fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

impl<'a> World<'a> {
    pub(super) fn new(
        case: &'a Case,
        port: &'a Port,
        folder: &'a Path,
        kept: &'a Path,
    ) -> Checked<Self> {
        let mut world = Self {
            case,
            port,
            folder,
            kept,
            shims: HashMap::new(),
            current: "shim".to_owned(),
            images: BTreeMap::new(),
            gone: Vec::new(),
            acquired: HashMap::new(),
            max_concurrent_vms: case.config.max_concurrent_vms,
            restock_interval_ms: case.config.restock_interval_ms,
            shelf_idle_ms: case.config.shelf_idle_ms,
        };
        for point in case.mounts.keys().chain(&case.passed_on) {
            std::fs::create_dir(world.folder.join(point)).map_err(unfit)?;
        }
        for (path, image) in &case.images {
            world.make_image(path, *image)?;
        }
        Ok(world)
    }

    /// Where a path of the case is as the shim sees it.
    pub(super) fn path(&self, path: &str) -> Checked<PathBuf> {
        let mut path = path.to_owned();
        if path.contains("{ready}") {
            let ready = self.overlays()?;
            let Some(first) = ready.first() else {
                broken!("D1.4, L13.1: no overlay is ready in the pool directory");
            };
            path = path.replace("{ready}", &first.to_string_lossy());
        }
        if path.contains("{pool}") {
            let found = self.pool_directories();
            let [pool] = found.as_slice() else {
                broken!(
                    "D1.1: directories named pool- and 32 hexadecimal digits: {found:?}, and not one"
                );
            };
            path = path.replace("{pool}", &pool.to_string_lossy());
        }
        Ok(self.folder.join(path))
    }

    /// Where a path of the shim is for the runner, which is outside of its mount namespace.
    pub(super) fn outside(&self, path: &Path) -> PathBuf {
        match self.shims.get(&self.current) {
            Some(shim) if self.case.mounts_anything() && !self.is_passed_on(path) => {
                let root = format!("/proc/{}/root", shim.pid().as_raw_nonzero());
                Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
            }
            _ => path.to_owned(),
        }
    }

    /// What is passed on stands below, where it never hangs.
    fn is_passed_on(&self, path: &Path) -> bool {
        self.case.passed_on.iter().any(|point| path.starts_with(self.folder.join(point)))
    }

    /// A path of the case, for the runner.
    pub(super) fn file(&self, path: &str) -> Checked<PathBuf> {
        Ok(self.outside(&self.path(path)?))
    }

    /// The pool directories, as the shim sees them.
    pub(super) fn pool_directories(&self) -> Vec<PathBuf> {
        let parent = self.folder.join(&self.case.config.pool_dir);
        let found = names(&self.outside(&parent)).into_iter().filter(|name| is_pool_name(name));
        let found = found.map(|name| parent.join(name));
        let is_directory = |path: &PathBuf| {
            self.outside(path).symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
        };
        found.filter(is_directory).collect()
    }

    /// The overlays in all pool directories, as the shim sees them.
    pub(super) fn overlays(&self) -> Checked<Vec<PathBuf>> {
        let mut overlays = Vec::new();
        for directory in self.pool_directories() {
            let outside = self.outside(&directory);
            let metadata = std::fs::metadata(&outside).map_err(unfit)?;
            self.check_private(&directory, &metadata, 0o700)?;
            let files = names(&outside).into_iter().map(|name| directory.join(name));
            overlays.extend(files.filter(|path| path.extension() == Some("qcow2".as_ref())));
        }
        Ok(overlays)
    }

    pub(super) fn use_shim(&mut self, name: &str) {
        name.clone_into(&mut self.current);
    }

    /// The shim of this step; a new one, with a new pool, where none runs.
    pub(super) fn shim(&mut self) -> Checked<&mut Shim> {
        if !self.shims.contains_key(&self.current) {
            let argv = self.port.command(self.case, self.folder);
            let shim = Shim::start(&argv, self.folder, &self.current, self.port.patience)?;
            self.shims.insert(self.current.clone(), shim);
            self.new_pool(self.case.config.max_concurrent_vms)?;
        }
        Ok(self.shims.get_mut(&self.current).expect("it was just seen to"))
    }

    pub(super) fn take_shim(&mut self) -> Option<Shim> {
        self.shims.remove(&self.current)
    }

    pub(super) fn running(&self) -> Vec<String> {
        self.shims.keys().cloned().collect()
    }

    pub(super) fn ask(&mut self, request: &str, of: Value) -> Checked<Answer> {
        let answer = self.shim()?.ask(request, fields(of))?;
        Ok(self.port.translate(answer))
    }

    pub(super) fn answer(&mut self, id: u64) -> Checked<Answer> {
        let answer = self.shim()?.answer(id)?;
        Ok(self.port.translate(answer))
    }

    pub(super) fn answer_within(&mut self, id: u64, patience: Duration) -> Checked<Answer> {
        let answer = self.shim()?.answer_within(id, patience)?;
        Ok(self.port.translate(answer))
    }

    /// A shelf's size by rule S1.
    pub(super) fn size(&self) -> i64 {
        (self.max_concurrent_vms / 2).max(0)
    }

    /// Makes a pool and gives its size, where that can be told before the start.
    pub(super) fn new_pool(&mut self, max_concurrent_vms: i64) -> Checked<Option<i64>> {
        self.max_concurrent_vms = max_concurrent_vms;
        let config: &Config = &self.case.config;
        let path = |path: &str| {
            if config.relative { PathBuf::from(path) } else { self.folder.join(path) }
        };
        let mut told = json!({
            "max_concurrent_vms": max_concurrent_vms,
            "images_path": path(&config.images_path),
            "pool_dir": path(&config.pool_dir),
            "restock_interval_ms": self.restock_interval_ms,
            "create_timeout_ms": config.create_timeout_ms,
        });
        if let Some(idle) = self.shelf_idle_ms {
            told["shelf_idle_ms"] = idle.into();
        }
        let made = self.ask("new", json!({ "config": told }))?;
        let made = made.map_err(|error| Failure::Broken(format!("new: {}", told_error(&error))))?;
        match made.get("pool_size") {
            Some(Value::Null) => Ok(None),
            Some(size) if size.is_i64() => Ok(size.as_i64()),
            _ => Err(unfit(format!("new: pool_size isn't an integer or null: {made}"))),
        }
    }

    /// A base image in a request.
    pub(super) fn base(&self, path: &str, format: Format, relative: bool) -> Value {
        let path = if relative { PathBuf::from(path) } else { self.folder.join(path) };
        json!({ "path": path, "format": format.as_str() })
    }

    /// Makes a base image, by renaming a finished one, and remembers its bytes.
    pub(super) fn make_image(&mut self, path: &str, image: Image) -> Checked {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(unfit)?;
        std::fs::rename(self.new_image(image)?, &path).map_err(unfit)?;
        self.remember(&path)
    }

    /// Makes a base image that has no name of its own yet.
    pub(super) fn new_image(&self, image: Image) -> Checked<PathBuf> {
        let new = self.folder.join("image.new");
        match image.format {
            Format::Raw => make_raw(&new, image)?,
            Format::Qcow2 => {
                let what = if image.blank { "blank" } else { "case" };
                let kept = self.kept.join(format!("{what}-{}.qcow2", image.mib));
                qemu::copy_of(&kept, &new, |path| make_qcow2(path, image)).map_err(unfit)?;
            }
        }
        Ok(new)
    }

    /// Takes note of a base image's bytes after they were changed on purpose.
    pub(super) fn remember(&mut self, path: &Path) -> Checked {
        self.images.insert(path.to_owned(), std::fs::read(path).map_err(unfit)?);
        Ok(())
    }

    pub(super) fn is_acquired(&self, path: &Path) -> bool {
        self.acquired.values().any(|acquired| acquired == path)
    }

    /// What a pool makes has this mode, and belongs to the user and the group that it runs as, which
    /// are the runner's. A port that doesn't keep to that is told so by the cases of A11 alone.
    pub(super) fn check_private(&self, path: &Path, found: &Metadata, mode: u32) -> Checked {
        if !self.case.proves("A11") {
            return Ok(());
        }
        let found_mode = found.mode() & 0o7777;
        if found_mode != mode {
            let id = if mode == 0o700 { "A11.2" } else { "A11.1" };
            broken!("{id}: {} has mode {found_mode:o}, not {mode:o}", path.display());
        }
        let owners = (found.uid(), found.gid());
        let wanted = (geteuid().as_raw(), getegid().as_raw());
        if owners != wanted {
            broken!("A11.4: {} has owner and group {owners:?}, not {wanted:?}", path.display());
        }
        Ok(())
    }

    /// An overlay was handed over at `target`: a file of its own, for its owner alone.
    pub(super) fn handed_over(&mut self, target: &Path) -> Checked {
        let metadata = match self.outside(target).symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) => broken!("A2.2: nothing is at {}: {error}", target.display()),
        };
        if !metadata.is_file() {
            let id = self.broken_of(&["A11.1", "A11.3"]);
            broken!("{id}: {} is no regular file", target.display());
        }
        self.check_private(target, &metadata, 0o600)?;
        let id = (metadata.dev(), metadata.ino());
        if let Some(other) = self.acquired.insert(id, target.to_owned()) {
            if other == target {
                broken!("A1.4: {} was handed over twice", target.display());
            }
            broken!("A4.3: {} was handed out at {} before", target.display(), other.display());
        }
        Ok(())
    }
}

/// A pattern, if it isn't blank, and nothing else.
fn make_raw(path: &Path, image: Image) -> Checked {
    let pattern = if image.blank { vec![] } else { vec![0x5a; 65536] };
    std::fs::write(path, pattern).map_err(unfit)?;
    let file = File::options().write(true).open(path).map_err(unfit)?;
    file.set_len(image.mib << 20).map_err(unfit)
}

fn make_qcow2(path: &Path, image: Image) -> Result<(), String> {
    let raw = path.with_extension("raw");
    make_raw(&raw, image).map_err(|failure| failure.to_string())?;
    let (from, to) = (raw.to_string_lossy(), path.to_string_lossy());
    qemu::run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &from, &to])?;
    std::fs::remove_file(&raw).map_err(|error| format!("{from}: {error}"))
}

/// `pool-` and 32 hexadecimal digits (rule D1).
fn is_pool_name(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix("pool-")
        .is_some_and(|random| random.len() == 32 && random.bytes().all(is_digit))
}

/// The names in a directory, sorted; none where there is no directory.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
