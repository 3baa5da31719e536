//! Which base images are in use by what lies below a directory.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::in_use;
use rustix::fs::inotify;

use crate::harness::pools;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

/// More than any test has.
const ALL: usize = 1000;

/// An overlay of a base image, made by a pool, and what else is found in a directory of targets.
async fn targets(scratch: &Path, base: &Path) -> PathBuf {
    let targets = scratch.join("targets");
    std::fs::create_dir_all(targets.join("a/b")).expect("folders");
    let pool = pools::started(pools::config(CreatorKind::Native, scratch, 0), base).await;
    pool.acquire(base, targets.join("a/b/disk.qcow2")).await.expect("an overlay");
    pool.stop().await;
    std::fs::write(targets.join("notes.txt"), "no image").expect("a file");
    std::fs::write(targets.join("cut"), b"QFI\xfb").expect("a file");
    targets
}

#[apply(test)]
async fn what_overlays_name_is_in_use_and_nothing_else(scratch: Scratch) {
    let [base, other] = ["one.qcow2", "other.qcow2"].map(|name| scratch.join(name));
    for image in [&base, &other] {
        Image::new(1 << 20).write(image);
    }
    let targets = targets(&scratch, &base).await;
    // Neither what a link leads to nor what waits for a writer is looked at.
    symlink(&*scratch, targets.join("link")).expect("a link");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        targets.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a FIFO");
    let found = in_use(&[targets], ALL);
    assert_eq!((found.files.iter().collect::<Vec<_>>(), found.whole), (vec![&base], true));
    assert!(found.may_hold(&base) && !found.may_hold(&other));
    let link = scratch.join("name-of-one");
    symlink(&base, &link).expect("a link");
    assert!(found.may_hold(&link), "by any name");
}

/// An image that another one refers to is in use, however QEMU would find it.
#[apply(test)]
fn what_base_images_name_is_in_use_too(scratch: Scratch) {
    let path = |name: &str| scratch.join(name);
    std::fs::create_dir(path("targets")).expect("a folder");
    let backed =
        |name: &str, by: &str| Image::new(1 << 20).backing(by.as_bytes()).write(&path(name));
    Image::new(1 << 20).write(&path("last.qcow2"));
    let json = format!(
        r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{}"}}}}"#,
        path("last.qcow2").display()
    );
    backed("third.qcow2", &json);
    backed("second.qcow2", &format!("file:{}", path("third.qcow2").display()));
    backed("first.qcow2", "second.qcow2");
    backed("targets/disk.qcow2", "../first.qcow2");
    // One that names itself is looked at once.
    backed("targets/itself.qcow2", "itself.qcow2");
    let found = in_use(&[path("targets")], ALL);
    for name in ["first.qcow2", "second.qcow2", "third.qcow2", "last.qcow2"] {
        assert!(found.files.contains(&path(name)), "{name}: {found:?}");
    }
    assert!(found.whole && !found.may_hold(&path("targets/disk.qcow2")), "{found:?}");
}

/// If not everything was looked at, any image may be in use.
#[apply(test)]
async fn what_is_not_known_may_be_in_use(scratch: Scratch) {
    let [base, other] = ["one.qcow2", "other.qcow2"].map(|name| scratch.join(name));
    for image in [&base, &other] {
        Image::new(1 << 20).write(image);
    }
    let targets = targets(&scratch, &base).await;
    // Two folders, three files, and the base image itself.
    for (most, whole) in [(0, false), (5, false), (6, true), (ALL, true)] {
        let found = in_use(std::slice::from_ref(&targets), most);
        assert_eq!((found.whole, found.may_hold(&other)), (whole, !whole), "{most}");
    }
    assert!(in_use(&[scratch.join("none")], ALL).whole, "there is none");
    let unknown = in_use(&[targets.join("n".repeat(300))], ALL);
    assert!(!unknown.whole && unknown.may_hold(&other), "no filesystem can tell");
}

/// Also by a link, as a directory may be given.
#[apply(test)]
async fn a_file_is_looked_at_as_a_directory_is(scratch: Scratch) {
    let [base, other] = ["one.qcow2", "other.qcow2"].map(|name| scratch.join(name));
    for image in [&base, &other] {
        Image::new(1 << 20).write(image);
    }
    let link = scratch.join("link");
    symlink(targets(&scratch, &base).await.join("a/b/disk.qcow2"), &link).expect("a link");
    for path in [link.clone(), link.canonicalize().expect("it leads there")] {
        let found = in_use(&[path], ALL);
        assert!(found.whole && found.may_hold(&base) && !found.may_hold(&other), "{found:?}");
    }
    assert_eq!(in_use(&[base], ALL), in_use(&[], ALL), "it refers to nothing");
}

/// Somebody may have moved it aside for a moment.
#[apply(test)]
fn a_name_that_leads_nowhere_now_is_resolved_too(scratch: Scratch) {
    let path = |name: &str| scratch.join(name);
    for folder in ["targets", "store"] {
        std::fs::create_dir(path(folder)).expect("a folder");
    }
    let real = path("store/real.qcow2");
    symlink("store/real.qcow2", path("link.qcow2")).expect("a link");
    symlink("link.qcow2", path("name.qcow2")).expect("a link");
    let name = path("name.qcow2").as_os_str().as_encoded_bytes().to_owned();
    Image::new(1 << 20).backing(&name).write(&path("targets/disk.qcow2"));
    let found = in_use(&[path("targets")], ALL);
    assert!(found.whole && found.may_hold(&real), "{found:?}");
    symlink("loop", path("loop")).expect("a link");
    let name = path("loop").as_os_str().as_encoded_bytes().to_owned();
    Image::new(1 << 20).backing(&name).write(&path("targets/disk.qcow2"));
    assert!(!in_use(&[path("targets")], ALL).may_hold(&real));
}

/// Whoever may write a header would have a device do something by its being opened.
#[apply(test)]
fn nothing_but_files_is_opened(scratch: Scratch) {
    let pipe = scratch.join("pipe");
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, mode, 0).expect("a FIFO");
    let disk = scratch.join("disk.qcow2");
    Image::new(1 << 20).backing(b"pipe").write(&disk);
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("a watch");
    for path in [&pipe, &disk] {
        inotify::add_watch(&watch, path, inotify::WatchFlags::OPEN).expect("it is watched");
    }
    let found = in_use(&[disk], ALL);
    assert!(found.whole && found.may_hold(&pipe), "{found:?}");
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let opened = std::iter::from_fn(|| events.next().ok().map(|event| event.wd()));
    assert_eq!(opened.collect::<Vec<_>>(), [2], "the file and nothing else");
}
