//! Keeping a VM's disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;

use crate::place::{Draft, Spot, rename_new};

/// Moves a disk to a target where nothing is there; to another file system it is copied.
pub(super) fn keep(disk: &Path, target: &Path) -> io::Result<()> {
    let spot = Spot::at(target)?;
    match rename_new(CWD, disk.as_os_str(), &spot) {
        Err(Errno::XDEV) => {
            let copy = Draft::begin(&spot)?;
            io::copy(&mut File::open(disk)?, &mut copy.file().as_ref())?;
            copy.finish()?;
            fs::remove_file(disk)
        }
        moved => Ok(moved?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::fs::{FileType, Mode, mknodat};

    use super::*;

    /// Whoever is killed while it copies a disk leaves no part of one.
    #[test]
    fn a_copy_has_no_name_until_it_is_whole() {
        let [here, there] = [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")];
        let (here, there) = (here.expect("a folder"), there.expect("a folder"));
        // A disk that can be read half.
        let disk = here.path().join("disk");
        mknodat(CWD, &disk, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO");
        let target = there.path().join("kept");
        let bytes = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| keep(&disk, &target));
            let mut writer = File::options().write(true).open(&disk).expect("it is read");
            // More than a pipe holds.
            writer.write_all(&bytes).expect("it is read");
            assert_eq!(there.path().read_dir().expect("a folder").count(), 0);
            drop(writer);
            kept.join().expect("no panic").expect("it is kept");
        });
        assert!(fs::read(&target).expect("the copy") == bytes);
        assert!(!disk.exists());
    }
}
