//! Whether what was made is sound.

use std::fs;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{Header, Overlay, READ_LIMIT};
use serde::Serialize;
use tokio::task::yield_now;

use super::error::BenchError;
use super::qemu_img::QemuImg;

/// How many overlays of each creator `qemu-img check` looks at.
const QEMU_IMG_CHECKS: usize = 32;

/// How many overlays were found sound.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Checked {
    /// Each one that was handed over: the file, its header, and what the native creator wrote.
    pub(super) overlays: usize,
    /// Those of them that `qemu-img check` has looked at too.
    pub(super) with_qemu_img: usize,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.overlays += other.overlays;
        self.with_qemu_img += other.with_qemu_img;
    }
}

/// Looks at all overlays that `creator` made as `expected`.
pub(super) async fn check(
    creator: CreatorKind,
    expected: &Overlay,
    made: &[PathBuf],
    qemu_img: Option<&QemuImg>,
) -> Result<Checked, BenchError> {
    let content = content(expected);
    let bad = |path: &Path, message| BenchError::BadOverlay {
        creator: creator.as_str(),
        path: path.to_owned(),
        message,
    };
    let mut checked = Checked::default();
    for (number, path) in made.iter().enumerate() {
        let bytes = read(path).map_err(|message| bad(path, message))?;
        judge_header(&bytes, expected).map_err(|message| bad(path, message))?;
        // QEMU's are judged by what they mean, since another version may write other bytes.
        if creator == CreatorKind::Native && bytes != content {
            return Err(bad(path, "it has other bytes than were laid out".to_owned()));
        }
        checked.overlays += 1;
        if let Some(qemu_img) = qemu_img
            && number % made.len().div_ceil(QEMU_IMG_CHECKS) == 0
        {
            qemu_img.check(path).map_err(|error| bad(path, error.to_string()))?;
            checked.with_qemu_img += 1;
        }
        yield_now().await;
    }
    Ok(checked)
}

/// A whole overlay, with the zeros between its extents.
fn content(overlay: &Overlay) -> Vec<u8> {
    let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let mut content = Vec::new();
    for extent in overlay.extents() {
        content.resize(index(extent.offset), 0);
        content.extend_from_slice(&extent.bytes);
    }
    content.resize(index(overlay.file_len()), 0);
    content
}

/// The bytes of an overlay that is its owner's alone.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = path.symlink_metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err("it is not a file of its own".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode != 0o600 {
        return Err(format!("its mode is {mode:o} instead of 600"));
    }
    fs::read(path).map_err(|error| error.to_string())
}

/// Whether the header is good and says what was asked for.
fn judge_header(bytes: &[u8], expected: &Overlay) -> Result<(), String> {
    let start = &bytes[..bytes.len().min(READ_LIMIT)];
    let header = Header::parse(start).map_err(|error| error.to_string())?;
    header.check(bytes.len() as u64).map_err(|error| error.to_string())?;
    let wanted = expected.backing();
    let backing = header.backing_file.as_deref().unwrap_or(Path::new(""));
    if backing != wanted {
        let (backing, wanted) = (backing.display(), wanted.display());
        return Err(format!("its backing file is {backing:?} instead of {wanted:?}"));
    }
    let (format, wanted) =
        (header.extensions.backing_format.as_deref(), expected.format().as_str());
    if format != Some(wanted) {
        return Err(format!("its backing format is {format:?} instead of {wanted:?}"));
    }
    let profile = expected.profile();
    let has = (header.size, header.cluster_bits, header.extended_l2(), header.lazy_refcounts());
    let wanted = (
        expected.virtual_size(),
        profile.cluster_bits(),
        profile.extended_l2(),
        profile.lazy_refcounts(),
    );
    if has != wanted {
        return Err(format!(
            "its size, cluster bits, extended L2 and lazy refcounts are {has:?} \
             instead of {wanted:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use overlay_pool::image::{Format, Profile};
    use rstest::{fixture, rstest};

    use super::*;

    #[fixture]
    fn overlay() -> Overlay {
        Overlay::new("/images/base.qcow2".as_ref(), Format::Qcow2, 1 << 30, Profile::Qemu)
            .expect("a layout")
    }

    #[rstest]
    fn a_good_header_is_good(overlay: Overlay) {
        assert_eq!(judge_header(&content(&overlay), &overlay), Ok(()));
    }

    #[rstest]
    #[case::magic(0)]
    #[case::size(24)]
    #[case::extended_l2(79)]
    #[case::lazy_refcounts(87)]
    #[case::backing_format(120)]
    fn a_changed_header_is_bad(overlay: Overlay, #[case] at: usize) {
        let mut bytes = content(&overlay);
        bytes[at] ^= 0x11;
        judge_header(&bytes, &overlay).expect_err("a changed byte");
    }

    #[rstest]
    fn another_base_is_bad(overlay: Overlay) {
        let other = Overlay::new("/images/other".as_ref(), Format::Qcow2, 1 << 30, Profile::Qemu)
            .expect("a layout");
        judge_header(&content(&other), &overlay).expect_err("another backing file");
    }
}
