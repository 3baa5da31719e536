//! `/v1/open`: overlays for clients that have no path in common with the pool.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use overlay_pool::api::{Client, ClientError, Opened, Source};
use rustix::fs::{OFlags, fcntl_getfl};

use super::names;
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo];

/// The open file, at a path that QEMU's tools can open.
fn path_of(opened: &Opened) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), opened.file.as_raw_fd()).into()
}

/// A server that makes overlays so, with one real base image.
fn served(scratch: &Path, more: &[&str]) -> Server {
    qemu::base_image(&server::base(scratch), "64M");
    std::fs::create_dir(server::vms(scratch)).expect("a folder");
    let [base, vms] = [server::base(scratch), server::vms(scratch)];
    let mut args = vec!["--base".into(), base.into_os_string()];
    args.extend(["--targets".into(), vms.into_os_string()]);
    args.extend(more.iter().map(Into::into));
    Server::start(scratch, args)
}

/// The overlays that lie in directories with this prefix, in the server's place.
fn left_in(scratch: &Path, prefix: &str) -> Vec<String> {
    let pool = scratch.join("pool");
    let directories = names(&pool).into_iter().filter(|name| name.starts_with(prefix));
    directories.flat_map(|name| names(&pool.join(name))).collect()
}

#[apply(test)]
#[case::native("native")]
#[needs(StorageDaemon)]
#[case::storage_daemon("storage-daemon")]
#[case::qemu_img("qemu-img")]
async fn a2_a3_a9_open_files_are_sound_and_have_no_name(
    scratch: Scratch,
    #[case] creator: &'static str,
) {
    let more = ["--creator", creator, "--max-vms", "4", "--restock-interval", "1h"];
    let server = served(&scratch, &more);
    let (client, base) = (Client::new(server.socket()), server::base(&scratch));
    for expected in [Source::Pooled, Source::Pooled, Source::OnDemand] {
        let opened = client.open(&base, None).await.expect("an overlay");
        assert_eq!((opened.source, &opened.base), (expected, &base));
        let metadata = opened.file.metadata().expect("the file");
        assert_eq!((metadata.nlink(), metadata.mode() & 0o7777), (0, 0o600));
        let flags = fcntl_getfl(&opened.file).expect("its flags");
        assert!(flags.contains(OFlags::RDWR), "it can't be written to: {flags:?}");
        let path = path_of(&opened);
        qemu::check(&path);
        qemu::compare(&path, &base);
        qemu::io(&path, &["write -q -P 0x77 0 64k", "read -q -P 0x77 0 64k"]);
    }
    assert_eq!((left_in(&scratch, "pool-"), left_in(&scratch, "open-")), (vec![], vec![]));
    qemu::io(&base, &["read -q -P 0x5a 0 64k"]);
    server.stop();
    assert!(!scratch.join("pool").exists(), "nothing is left");
}

#[apply(test)]
async fn a4_no_overlay_is_opened_twice(scratch: Scratch) {
    let server = served(&scratch, &["--max-vms", "20", "--restock-interval", "1h"]);
    let (client, base) = (Client::new(server.socket()), server::base(&scratch));
    let all = futures_util::future::try_join_all((0..16).map(|_| client.open(&base, None))).await;
    let all = all.expect("overlays");
    let pooled = all.iter().filter(|opened| opened.source == Source::Pooled).count();
    let inode = |opened: &Opened| opened.file.metadata().expect("the file").ino();
    let inodes: HashSet<_> = all.iter().map(inode).collect();
    assert_eq!((pooled, inodes.len()), (10, 16));
}

/// Neither the size of the pool nor who removes its place keeps a client from its disk.
#[apply(test)]
async fn l2_l12_without_a_pool_directory(scratch: Scratch) {
    let server = served(&scratch, &["--max-vms", "0"]);
    let (client, base) = (Client::new(server.socket()), server::base(&scratch));
    for _ in 0..2 {
        let opened = client.open(&base, None).await.expect("an overlay");
        assert_eq!(opened.source, Source::OnDemand);
        qemu::check(&path_of(&opened));
        std::fs::remove_dir_all(scratch.join("pool")).expect("it was made for this");
    }
    server.stop();
    assert!(!scratch.join("pool").exists(), "nothing is left");
}

#[apply(test)]
async fn a7_a_place_that_cannot_be_is_named(scratch: Scratch) {
    let server = served(&scratch, &["--max-vms", "0"]);
    let (client, base) = (Client::new(server.socket()), server::base(&scratch));
    std::fs::write(scratch.join("pool"), "in the way").expect("a file");
    let refused = client.open(&base, None).await.expect_err("no place for it");
    let ClientError::Refused(problem) = refused else { panic!("{refused}") };
    assert_eq!(problem.error, "bad-target");
    assert!(problem.detail.contains("/pool"), "{}", problem.detail);
}

#[apply(test)]
async fn c1_what_a_dead_server_left_is_removed(scratch: Scratch) {
    let left = scratch.join("pool").join(format!("open-{:032x}", 7));
    std::fs::create_dir_all(&left).expect("a folder");
    std::fs::write(left.join("0.qcow2"), "never received").expect("a file");
    let server = served(&scratch, &[]);
    assert!(!left.exists());
    server.stop();
}
