//! What a pool under test stands on: its folder, its base images and its targets.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::pool_process::whole as whole_overlay;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// A target at which there is a file that nobody may touch.
pub(super) const PRECIOUS: &str = "precious";
/// Targets with this name, or one that begins with it, are of a disk that is larger than its base
/// image.
pub(super) const LARGER: (&str, u64) = ("larger", 2 << 20);
/// A target of a disk of the other base image.
pub(super) const OTHER: &str = "other";

/// Overlays by name, and by what tells a file and its state from others: inode, size and time of
/// modification.
pub(super) type Overlays = HashMap<String, (u64, u64, i64, i64)>;

pub(super) struct Ground {
    pub(super) folder: PathBuf,
    pub(super) one: PathBuf,
    pub(super) other: PathBuf,
    /// What an overlay of each kind is: plain, larger, and of the other base image.
    whole: [Vec<u8>; 3],
}

impl Ground {
    pub(super) fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join("vm")).expect("a folder");
        let folder = folder.to_owned();
        let [one, other] = ["one.qcow2", "other.qcow2"].map(|name| folder.join(name));
        Image::new(1 << 20).write(&one);
        Image::new(1 << 20).write(&other);
        let whole = [(&one, None), (&one, Some(LARGER.1)), (&other, None)];
        let whole = whole.map(|(base, size)| whole_overlay(base, size));
        let ground = Self { folder, one, other, whole };
        std::fs::write(ground.target(PRECIOUS), PRECIOUS).expect("a file");
        ground
    }

    /// A server of these base images, which may be killed before it is ready.
    pub(super) fn launch(&self, bases: &[&Path]) -> Server {
        let mut command = Server::command(&self.folder);
        command.args(["--max-vms", "8", "--targets"]).arg(self.folder.join("vm"));
        for base in bases {
            command.arg("--base").arg(base);
        }
        // What a killed one left is in the way.
        let _ = std::fs::remove_file(server::socket(&self.folder));
        Server::launch(&self.folder, &mut command)
    }

    pub(super) fn start(&self, bases: &[&Path]) -> Server {
        let mut server = self.launch(bases);
        server.await_ready();
        server
    }

    pub(super) fn target(&self, name: &str) -> PathBuf {
        self.folder.join("vm").join(name)
    }

    /// Rules A1 to A4, A7 and A11: at the targets are whole overlays, what was there before, and
    /// nothing else; and no file is at two of them. Gives the names of the overlays.
    pub(super) fn overlays(&self) -> Result<HashSet<String>, String> {
        Ok(self.overlays_beyond(&Overlays::new())?.into_keys().collect())
    }

    /// The same, where overlays that were seen before need only be the same files, untouched.
    pub(super) fn overlays_beyond(&self, seen: &Overlays) -> Result<Overlays, String> {
        let (mut overlays, mut inodes, mut precious) = (Overlays::new(), HashSet::new(), false);
        for entry in std::fs::read_dir(self.folder.join("vm")).expect("the targets") {
            let path = entry.expect("a target").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if name == PRECIOUS {
                precious = std::fs::read(&path).expect("a target") == PRECIOUS.as_bytes();
                continue;
            }
            let metadata = path.symlink_metadata().expect("a target");
            let file = (metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec());
            match seen.get(&name) {
                Some(before) if *before == file => {}
                Some(_) => return Err(format!("L11: {name} was changed: {metadata:?}")),
                None => self.expect_whole(&path, &name)?,
            }
            if metadata.mode() & 0o7777 != 0o600 {
                return Err(format!("A11: {name} is not for its owner alone: {metadata:?}"));
            }
            if !inodes.insert(metadata.ino()) || metadata.nlink() != 1 {
                return Err(format!("A4: {name} was handed out twice"));
            }
            overlays.insert(name, file);
        }
        if precious { Ok(overlays) } else { Err(format!("A1: {PRECIOUS} was overwritten")) }
    }

    fn expect_whole(&self, path: &Path, name: &str) -> Result<(), String> {
        let [plain, larger, other] = &self.whole;
        let expected = match name {
            OTHER => other,
            name if name.starts_with(LARGER.0) => larger,
            _ => plain,
        };
        if std::fs::read(path).expect("a target") == *expected {
            return Ok(());
        }
        Err(format!("A2: {name} is no whole overlay"))
    }
}

pub(super) fn kill(server: Server) {
    server.signal(Signal::KILL);
    assert!(!server.wait().success());
}
