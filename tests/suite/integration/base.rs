//! Base images: which are good, which are refused, and whether QEMU agrees.

use std::cell::Cell;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay_pool::image::{
    BaseError, BaseImage, BaseRef, Format, HeaderError, OverlayError, OverlayOptions, References,
};
use proptest::prelude::*;

use crate::harness::prelude::*;
use crate::harness::qcow2::{Image, field};
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo];

fn create(path: &Path, options: &[&str], size: &str) -> PathBuf {
    let mut args = vec!["create", "-q", "-f", "qcow2"];
    let name = path.to_str().expect("a plain path");
    args.extend(options);
    args.extend([name, size]);
    qemu::run("qemu-img", args);
    path.to_owned()
}

fn open(path: &Path) -> Result<BaseImage, BaseError> {
    BaseImage::open(&path.into(), References::Deny)
}

#[apply(test)]
#[case::version_2(&["-o", "compat=0.10"])]
#[case::version_3(&["-o", "compat=1.1"])]
#[case::zstd(&["-o", "compression_type=zstd"])]
#[case::extended_l2(&["-o", "extended_l2=on,cluster_size=128k"])]
#[case::small_clusters(&["-o", "cluster_size=512"])]
#[case::large_clusters(&["-o", "cluster_size=2M"])]
#[case::one_bit_refcounts(&["-o", "refcount_bits=1"])]
#[case::lazy_refcounts(&["-o", "lazy_refcounts=on"])]
#[case::preallocated(&["-o", "preallocation=metadata"])]
fn a9_good_bases(scratch: Scratch, #[case] options: &[&str]) {
    let path = create(&scratch.join("base.qcow2"), options, "64M");
    let base = open(&path).expect("a good base");
    assert_eq!(
        (base.path(), base.format(), base.virtual_size()),
        (&*path, Format::Qcow2, 64 << 20)
    );
}

#[apply(test)]
fn a9_good_base_with_snapshots(scratch: Scratch) {
    let path = create(&scratch.join("base.qcow2"), &[], "64M");
    qemu::run("qemu-img", ["snapshot", "-c", "first", path.to_str().expect("a plain path")]);
    open(&path).expect("a good base");
}

#[apply(test)]
fn a9_good_base_with_bitmaps(scratch: Scratch) {
    let path = create(&scratch.join("base.qcow2"), &[], "64M");
    qemu::run("qemu-img", ["bitmap", "--add", path.to_str().expect("a plain path"), "first"]);
    open(&path).expect("a good base");
}

#[apply(test)]
fn raw_only_where_declared(scratch: Scratch) {
    let path = scratch.join("disk.img");
    std::fs::write(&path, vec![0; 1000]).expect("a raw image");
    let error = open(&path).expect_err("not declared as raw");
    assert!(matches!(error, BaseError::Header { source: HeaderError::Magic(_), .. }), "{error}");
    let base = BaseImage::open(&BaseRef::raw(&path), References::Deny).expect("declared as raw");
    assert_eq!((base.format(), base.virtual_size()), (Format::Raw, 1024));
    assert_eq!(base.overlay(OverlayOptions::default()).expect("an overlay").virtual_size(), 1024);
}

#[apply(test)]
fn refused_unless_references_are_allowed(scratch: Scratch) {
    let below = create(&scratch.join("below.qcow2"), &[], "64M");
    let below = below.to_str().expect("a plain path");
    let path = create(&scratch.join("base.qcow2"), &["-b", below, "-F", "qcow2"], "64M");
    let error = open(&path).expect_err("it has a backing file");
    let BaseError::Reference { what: "backing file", refers_to, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(refers_to, Path::new(below));
    BaseImage::open(&(&path).into(), References::Allow).expect("allowed");

    let data = format!("data_file={}", scratch.join("data.raw").display());
    let path = create(&scratch.join("data.qcow2"), &["-o", &data], "64M");
    let error = open(&path).expect_err("it has an external data file");
    assert!(matches!(error, BaseError::Reference { what: "external data file", .. }), "{error}");
    BaseImage::open(&(&path).into(), References::Allow).expect("allowed");
}

/// The feature bit and the name each say that there is such a file.
#[apply(test)]
#[case::bit(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 2); })]
#[case::name(|i: &mut Image| { i.u32(field::EXTENSIONS, 0x4441_5441).u32(field::EXTENSIONS + 4, 1).bytes(field::EXTENSIONS + 8, b"d"); })]
fn refused_half_of_a_data_file(scratch: Scratch, #[case] refer: fn(&mut Image)) {
    let (path, mut image) = (scratch.join("base.qcow2"), Image::new(1 << 20));
    refer(&mut image);
    image.write(&path);
    let error = open(&path).expect_err("it has an external data file");
    assert!(matches!(error, BaseError::Reference { what: "external data file", .. }), "{error}");
}

#[apply(test)]
fn refused_encrypted(scratch: Scratch) {
    let options = [
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    ];
    let path = create(&scratch.join("base.qcow2"), &options, "1M");
    let error = open(&path).expect_err("it is encrypted");
    assert!(
        matches!(error, BaseError::Header { source: HeaderError::Encrypted(2), .. }),
        "{error}"
    );
}

#[apply(test)]
fn refused_not_closed_properly(scratch: Scratch) {
    let path = create(&scratch.join("base.qcow2"), &["-o", "lazy_refcounts=on"], "1M");
    // Aborted after a write, qemu-io leaves the image dirty.
    let aborted =
        Command::new("qemu-io").args(["-c", "write -q 0 64k", "-c", "abort"]).arg(&path).output();
    assert!(!aborted.expect("qemu-io runs").status.success());
    let error = open(&path).expect_err("it is dirty");
    assert!(matches!(error, BaseError::Header { source: HeaderError::Dirty, .. }), "{error}");
    qemu::run("qemu-img", ["check", "-q", "-r", "all", path.to_str().expect("a plain path")]);
    open(&path).expect("repaired as the message says, it is good");
}

#[apply(test)]
fn refused_no_regular_file(scratch: Scratch) {
    assert!(matches!(open(&scratch), Err(BaseError::NotAFile { .. })));
    let fifo = scratch.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a FIFO");
    assert!(
        matches!(open(&fifo), Err(BaseError::NotAFile { .. })),
        "and it didn't wait for a writer"
    );
    assert!(matches!(open("/dev/null".as_ref()), Err(BaseError::NotAFile { .. })));
    assert!(matches!(open(&scratch.join("none")), Err(BaseError::Io { .. })));
    symlink("loop", scratch.join("loop")).expect("a link to itself");
    assert!(matches!(open(&scratch.join("loop")), Err(BaseError::Io { .. })));
    std::fs::write(scratch.join("empty"), []).expect("an empty file");
    let error = open(&scratch.join("empty")).expect_err("an empty file");
    assert!(
        matches!(error, BaseError::Header { source: HeaderError::Truncated(0), .. }),
        "{error}"
    );
}

#[apply(test)]
fn a8_path_is_resolved(scratch: Scratch) {
    let path = create(&scratch.join("base.qcow2"), &[], "1M");
    std::fs::create_dir(scratch.join("sub")).expect("a folder");
    symlink("../base.qcow2", scratch.join("sub/link")).expect("a link");
    assert_eq!(open(&scratch.join("sub/../sub/link")).expect("a good base").path(), path);
}

#[apply(test)]
fn a9_smaller_than_the_base_is_refused(scratch: Scratch) {
    let base = open(&create(&scratch.join("base.qcow2"), &[], "64M")).expect("a good base");
    let sized = |size| OverlayOptions { virtual_size: Some(size), ..OverlayOptions::default() };
    let error = base.overlay(sized((64 << 20) - 512)).expect_err("a sector too small");
    assert!(matches!(
        error,
        BaseError::Overlay { source: OverlayError::SmallerThanBase { .. }, .. }
    ));
    assert_eq!(base.overlay(sized(1 << 40)).expect("larger").virtual_size(), 1 << 40);
}

/// Whatever header we accept, `qemu-img info` accepts too, with the same size and backing name.
#[apply(test)]
fn what_we_accept_qemu_accepts(scratch: Scratch) {
    let path = scratch.join("image.qcow2");
    let accepted = Cell::new(0);
    let byte = prop_oneof![any::<u8>(), Just(0), Just(1)];
    proptest!(properties(400), |(
        damage in proptest::collection::vec((0_usize..124, byte), 0..3),
        name in "(/[a-z]{1,9}){0,3}",
    )| {
        let mut image = Image::new(1 << 20);
        if !name.is_empty() {
            image.backing(name.as_bytes());
        }
        for (at, byte) in damage {
            image.bytes(at, &[byte]);
        }
        image.write(&path);
        if BaseImage::open(&(&path).into(), References::Allow).is_ok() {
            accepted.set(accepted.get() + 1);
            prop_assert_eq!(qemu::agrees(&path), Ok(()));
        }
    });
    assert!(
        accepted.get() > 50,
        "only {accepted:?} of the headers were good: this test saw too little"
    );
}

/// With each shape of the tables: whole it is good, and without its last cluster it isn't.
#[apply(test)]
#[case::plain(&[])]
#[case::version_2(&["-o", "compat=0.10"])]
#[case::extended_l2(&["-o", "extended_l2=on,cluster_size=128k"])]
#[case::small_clusters(&["-o", "cluster_size=512"])]
#[case::large_clusters(&["-o", "cluster_size=2M"])]
#[case::one_bit_refcounts(&["-o", "refcount_bits=1"])]
#[case::wide_refcounts(&["-o", "refcount_bits=64"])]
#[case::preallocated(&["-o", "preallocation=metadata"])]
fn refused_cut_off(scratch: Scratch, #[case] options: &[&str]) {
    let path = create(&scratch.join("base.qcow2"), options, "64M");
    let name = path.to_str().expect("a plain path");
    qemu::run("qemu-io", ["-c", "write -q 0 3M", "-c", "write -q 40M 3M", name]);
    open(&path).expect("it is whole");
    let compressed = scratch.join("compressed.qcow2");
    let to = compressed.to_str().expect("a plain path");
    qemu::run("qemu-img", ["convert", "-c", "-O", "qcow2", name, to]);
    open(&compressed).expect("it is whole, though its last cluster isn't");

    for path in [&path, &compressed] {
        let len = path.metadata().expect("it is there").len();
        let file = std::fs::File::options().write(true).open(path).expect("it opens");
        for part in [len / 4 * 3, len / 2] {
            file.set_len(part).expect("cut off");
            let error = open(path).expect_err("it is cut off");
            let BaseError::Header { source, .. } = error else { panic!("{error}") };
            // Of a small one not even the L1 table may be left.
            let is_said =
                matches!(source, HeaderError::CutOff { .. } | HeaderError::OutsideFile { .. });
            assert!(is_said, "{source}");
        }
    }
}

/// A cluster that was counted and never written, since QEMU died, is no part of the image.
#[apply(test)]
fn a9_good_base_with_a_leaked_cluster(scratch: Scratch) {
    let (path, mut image) = (scratch.join("base.qcow2"), Image::with_data(1 << 20));
    image.bytes((2 << 16) + 2 * 100, &[0, 1]);
    image.write(&path);
    open(&path).expect("a good base");
    assert_eq!(qemu::agrees(&path), Ok(()));
}
