//! Rule A9: an overlay is the same bytes whoever makes it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::{Creator, CreatorKind, Tools};
use overlay_pool::image::{Format, Overlay, Profile};

use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::StorageDaemon];

async fn started(kind: CreatorKind) -> Creator {
    let creator = Creator::new(kind, &Tools::default(), Duration::from_secs(30));
    creator.start().await.expect("the creator starts");
    creator
}

async fn write(creator: &Creator, overlay: &Arc<Overlay>, path: &Path) {
    let file = File::options().read(true).write(true).create_new(true).open(path);
    let file = Arc::new(file.expect("a new file"));
    creator.write(overlay, &file).await.expect("the overlay is written");
}

/// What `qemu-img create` makes of the same arguments; it doesn't look at the base.
fn write_by_qemu_img(overlay: &Overlay, path: &Path) {
    let options = overlay.profile().qemu_img_options();
    let mut args = vec!["create", "-q", "-u", "-f", "qcow2", "-o", &options, "-F"];
    let (size, path) = (overlay.virtual_size().to_string(), path.to_string_lossy().into_owned());
    let backing = overlay.backing().to_str().expect("this one is told as text");
    args.extend([overlay.format().as_str(), "-b", backing, &path, &size]);
    qemu::run("qemu-img", args);
}

fn assert_same(one: &Path, other: &Path, what: &str) {
    let read = |path: &Path| std::fs::read(path).expect("an overlay");
    assert!(read(one) == read(other), "{what}: {} and {} differ", one.display(), other.display());
}

#[apply(test)]
async fn a9_same_bytes_as_qemu_img(
    scratch: Scratch,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    kind: CreatorKind,
    #[values(Profile::Qemu, Profile::Portable)] profile: Profile,
) {
    let creator = started(kind).await;
    let sizes = [0, 1, 512, 1 << 20, 1 << 30, (1 << 30) + 1, 64 << 40, profile.max_virtual_size()];
    for (number, size) in sizes.into_iter().enumerate() {
        let format = if number % 2 == 0 { Format::Qcow2 } else { Format::Raw };
        let overlay = Overlay::new("/images/a base.qcow2".as_ref(), format, size, profile);
        let overlay = Arc::new(overlay.expect("a good overlay"));
        let (ours, theirs) =
            (scratch.join(format!("{number}.ours")), scratch.join(format!("{number}")));
        write(&creator, &overlay, &ours).await;
        write_by_qemu_img(&overlay, &theirs);
        assert_same(&ours, &theirs, &format!("{profile:?} {format} {size}"));
    }
    creator.stop().await;
}

#[apply(test)]
#[case::one_byte("b")]
#[case::space("/images/my base.qcow2")]
#[case::comma("/images/a,b,,c=d.qcow2")]
#[case::colon("/images/nbd:localhost:10809.qcow2")]
#[case::unicode("/images/базовый-образ-基本.qcow2")]
#[case::quote("/images/\"quoted\"\\'.qcow2")]
#[case::newline("/images/two\nlines.qcow2")]
async fn a9_same_bytes_for_every_name(
    scratch: Scratch,
    #[case] name: &str,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    kind: CreatorKind,
) {
    same_bytes_for_name(&scratch, name, kind).await;
}

#[apply(test)]
async fn a9_same_bytes_for_long_names(
    scratch: Scratch,
    #[values(100, 511, 1022, 1023)] length: usize,
    #[values(CreatorKind::Native, CreatorKind::StorageDaemon, CreatorKind::QemuImg)]
    kind: CreatorKind,
) {
    let name: String = "/directory".chars().cycle().take(length).collect();
    same_bytes_for_name(&scratch, &name, kind).await;
}

async fn same_bytes_for_name(scratch: &Scratch, name: &str, kind: CreatorKind) {
    let creator = started(kind).await;
    for profile in [Profile::Qemu, Profile::Portable] {
        let overlay = Overlay::new(name.as_ref(), Format::Raw, 1 << 30, profile);
        let overlay = Arc::new(overlay.expect("a good overlay"));
        let (ours, theirs) =
            (scratch.join(format!("{profile:?}")), scratch.join(format!("{profile:?}.q")));
        write(&creator, &overlay, &ours).await;
        write_by_qemu_img(&overlay, &theirs);
        assert_same(&ours, &theirs, name);
    }
    creator.stop().await;
}

#[apply(test)]
#[case(1 << 30)]
#[case(4 << 50)]
async fn a9_native_overlays_are_sparse(scratch: Scratch, #[case] size: u64) {
    let overlay = Overlay::new("/b".as_ref(), Format::Qcow2, size, Profile::Qemu);
    let path = scratch.join("overlay.qcow2");
    let creator = started(CreatorKind::Native).await;
    write(&creator, &Arc::new(overlay.expect("a good overlay")), &path).await;
    let allocated = path.metadata().expect("the overlay").blocks() * 512;
    assert!(allocated <= 16 << 10, "{allocated} bytes are allocated");
}
