//! What is measured on, and whether what is made there is sound. `tests/bench` shares this file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay_pool::image::{BaseRef, Header, HeaderError, Overlay, READ_LIMIT};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

/// How many overlays of one kind `qemu-img check` looks at, about.
const QEMU_IMG_CHECKS: usize = 32;

/// What figures depend on, for a person and a program.
pub(crate) fn machine(filesystem: &str, qemu: Option<&str>) -> io::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let linux = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let qemu = qemu.map_or("no QEMU".to_owned(), |version| format!("QEMU {version}"));
    Ok(format!("{cores} cores, Linux {}, {filesystem}, {qemu}", linux.trim()))
}

/// A new folder, removed when dropped. Its folders get a block group of their own: for minutes ext4
/// reuses no inode that was freed, and each create in that group looks at all of them, up to 1 ms.
pub(crate) fn folder(parent: &Path) -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("overlay-pool-bench-").tempdir_in(parent)?;
    let dir = File::open(&folder)?;
    let _ = ioctl_getflags(&dir).and_then(|flags| ioctl_setflags(&dir, flags | IFlags::TOPDIR));
    Ok(folder)
}

/// Makes a raw base image of 4 GiB.
pub(crate) fn make_base(dir: &Path) -> io::Result<BaseRef> {
    let path = dir.join("base");
    File::create_new(&path)?.set_len(4 << 30)?;
    Ok(BaseRef::raw(path))
}

/// Runs `qemu-img` to its end, with options and then paths.
pub(crate) fn qemu_img<const N: usize>(options: [&str; N], paths: &[&Path]) -> io::Result<()> {
    let mut command = Command::new("qemu-img");
    let output = command.args(options).args(paths).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let failed = || io::Error::other(format!("qemu-img: {}: {}", output.status, said.trim()));
    output.status.success().then_some(()).ok_or_else(failed)
}

/// Looks at all overlays that were made `like` that one; to the byte if they shall be `exact`, since
/// another version of QEMU may write other bytes. The first bad one is an error.
pub(crate) fn check(made: &[PathBuf], like: &Overlay, exact: bool, qemu: bool) -> io::Result<()> {
    let content = content(like);
    let facts = |bytes: &[u8]| -> Result<_, HeaderError> {
        let header = Header::parse(&bytes[..bytes.len().min(READ_LIMIT)])?;
        header.check(bytes.len() as u64)?;
        let features = (header.cluster_bits, header.extended_l2(), header.lazy_refcounts());
        Ok((header.size, features, header.backing_file, header.extensions.backing_format))
    };
    for (number, path) in made.iter().enumerate() {
        let bad = |why: String| io::Error::other(format!("bad overlay, {}: {why}", path.display()));
        let (bytes, file) = (fs::read(path)?, path.symlink_metadata()?);
        let [has, wanted] = [&bytes, &content].map(|it| facts(it).map_err(|why| why.to_string()));
        let owned = (file.nlink(), file.mode()) == (1, 0o100_600);
        if !owned || has != wanted || (exact && bytes != content) {
            return Err(bad(format!("{has:?} instead of {wanted:?}, or other bytes or owners")));
        }
        if qemu && number % made.len().div_ceil(QEMU_IMG_CHECKS) == 0 {
            qemu_img(["check", "-q", "-f", "qcow2"], &[path])
                .map_err(|why| bad(why.to_string()))?;
        }
    }
    Ok(())
}

/// A whole overlay, with the zeros between its extents.
pub(crate) fn content(overlay: &Overlay) -> Vec<u8> {
    let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let mut content = vec![0; index(overlay.file_len())];
    for extent in overlay.extents() {
        content[index(extent.offset)..][..extent.bytes.len()].copy_from_slice(&extent.bytes);
    }
    content
}
