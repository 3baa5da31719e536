//! Faults, made outside of the port.

use std::fs::{File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::case::Image;
use super::step::Step;
use super::world::{World, unfit};
use crate::faults::{busy, descriptors, fuse};
use crate::qemu;
use crate::shim::Checked;

impl World<'_> {
    pub(super) fn make_fault(&mut self, step: &Step) -> Checked {
        match step {
            Step::Signal { signal } => self.signal_aids(*signal).map(drop),
            Step::Write { path, text } => std::fs::write(self.file(path)?, text).map_err(unfit),
            Step::Symlink { path, to, relative } => {
                let absolute = self.path(to)?;
                let below = absolute.strip_prefix(self.folder);
                let to = if *relative { below.map_err(unfit)? } else { &absolute };
                std::os::unix::fs::symlink(to, self.file(path)?).map_err(unfit)
            }
            Step::Remove { path, and_make } => {
                let path = self.file(path)?;
                self.images.remove(&path);
                let is_dir = path.symlink_metadata().map_err(unfit)?.is_dir();
                let removed = if is_dir {
                    std::fs::remove_dir_all(&path)
                } else {
                    std::fs::remove_file(&path)
                };
                let made = if *and_make { std::fs::create_dir(&path) } else { Ok(()) };
                removed.and(made).map_err(unfit)
            }
            Step::Rename { from, to } => {
                let (from, to) = (self.file(from)?, self.file(to)?);
                if let Some(bytes) = self.images.remove(&from) {
                    self.images.insert(to.clone(), bytes);
                }
                std::fs::rename(from, to).map_err(unfit)
            }
            Step::Mkdir { path } => std::fs::create_dir_all(self.file(path)?).map_err(unfit),
            Step::Fifo { path } => {
                let path = self.file(path)?;
                mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(unfit)
            }
            Step::Chmod { path, mode } => {
                let permissions = Permissions::from_mode(*mode);
                std::fs::set_permissions(self.file(path)?, permissions).map_err(unfit)
            }
            Step::Chown { path, uid, gid } => {
                std::os::unix::fs::lchown(self.file(path)?, *uid, *gid).map_err(unfit)
            }
            Step::Image { path, image, keeps_time, in_place } => {
                self.replace_image(path, *image, *keeps_time, *in_place)
            }
            Step::Touch { path, seconds } => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                let now = SystemTime::now();
                let other = if *seconds < 0 { now - by } else { now + by };
                set_modified(&self.file(path)?, other)
            }
            Step::Resize { path, mib } => {
                let path = self.file(path)?;
                let (name, size) = (path.to_string_lossy(), format!("{mib}M"));
                qemu::run("qemu-img", ["resize", "-q", "-f", "qcow2", &name, &size])
                    .map_err(unfit)?;
                self.remember(&path)
            }
            Step::Truncate { path, len } => {
                let path = self.file(path)?;
                let file = File::options().write(true).open(&path).map_err(unfit)?;
                file.set_len(*len).map_err(unfit)?;
                if self.images.contains_key(&path) {
                    self.remember(&path)?;
                }
                Ok(())
            }
            Step::Fill { path } => {
                let mut file = File::create(self.file(path)?).map_err(unfit)?;
                while file.write_all(&[0; 4096]).is_ok() {}
                Ok(())
            }
            Step::Descriptors { free } => {
                let shim = self.shim()?;
                let (own, started) = (shim.pid(), shim.started());
                // A shim of a pool in another process is a client, and no part of it.
                let is_client = started.iter().any(|pid| self.port.is_pool(*pid));
                for pid in started {
                    // It may have ended by itself.
                    let _ = descriptors::limit(pid, *free);
                }
                if is_client { Ok(()) } else { descriptors::limit(own, *free).map_err(unfit) }
            }
            Step::Mount { path } => {
                let (inside, outside) = (self.path(path)?, self.file(path)?);
                let is_dir = outside.metadata().map_err(unfit)?.is_dir();
                busy::make(self.shim()?.pid(), &inside, is_dir).map_err(unfit)
            }
            Step::Unmount { path } => {
                let inside = self.path(path)?;
                busy::undo(self.shim()?.pid(), &inside).map_err(unfit)
            }
            Step::Hang { path, ms } => {
                fuse::hang(self.folder, path, Duration::from_millis(*ms)).map_err(unfit)
            }
            Step::GuestWrite { overlay } => {
                let overlay = self.file(overlay)?;
                let name = overlay.to_string_lossy();
                let write = ["-f", "qcow2", "-c", "write -q -P 0x77 0 128k", &name];
                qemu::run("qemu-io", write).map(drop).map_err(unfit)
            }
            other => Err(unfit(format!("{other:?} is no fault"))),
        }
    }

    fn replace_image(
        &mut self,
        path: &str,
        image: Image,
        keeps_time: bool,
        in_place: bool,
    ) -> Checked {
        let file = self.file(path)?;
        let before = file.metadata().and_then(|before| before.modified()).ok();
        if in_place {
            let new = self.new_image(image)?;
            std::fs::copy(&new, &file).and_then(|_| std::fs::remove_file(&new)).map_err(unfit)?;
            self.remember(&file)?;
        } else {
            self.make_image(path, image)?;
        }
        match before.filter(|_| keeps_time) {
            Some(before) => set_modified(&file, before),
            None => Ok(()),
        }
    }
}

pub(super) fn set_modified(path: &Path, time: SystemTime) -> Checked {
    let file = File::options().append(true).open(path).map_err(unfit)?;
    file.set_times(FileTimes::new().set_modified(time)).map_err(unfit)
}
