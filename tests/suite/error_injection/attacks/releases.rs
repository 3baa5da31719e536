//! Base images that a deploy exchanges under a running server.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::Server;

const NAME: &str = "python-base-x86_64.qcow2";

fn release(scratch: &Path, name: &str) -> PathBuf {
    let folder = scratch.join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    Image::new(1 << 20).write(&folder.join(NAME));
    folder
}

fn start(scratch: &Path, images: &Path, more: &[&str]) -> Server {
    std::fs::create_dir(scratch.join("vms")).expect("a folder");
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let mut args: Vec<_> = ["--images", &text(images), "--targets", &text(&scratch.join("vms"))]
        .map(str::to_owned)
        .to_vec();
    args.extend(["--max-vms", "4", "--restock-interval", "0s"].map(str::to_owned));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Server::start(scratch, args)
}

fn bases(server: &Server) -> Vec<PathBuf> {
    let bases = server.get("/v1/bases").json();
    let bases = bases.as_array().expect("a list").iter();
    bases.map(|base| base["path"].as_str().expect("a path").into()).collect()
}

/// `current -> v1` becomes `current -> v2`.
#[apply(test)]
fn l12_a_swapped_link_to_the_images_is_followed_at_a_rescan(
    scratch: Scratch,
    #[values(true, false)] signal: bool,
) {
    let [one, two] = ["v1", "v2"].map(|name| release(&scratch, name));
    let current = scratch.join("current");
    symlink("v1", &current).expect("a link");
    let mut server = start(&scratch, &current, &[]);
    assert_eq!(bases(&server), [one.join(NAME)]);
    symlink("v2", scratch.join("next")).expect("a link");
    std::fs::rename(scratch.join("next"), &current).expect("swapped");
    if signal {
        server.signal(Signal::HUP);
    } else {
        assert_eq!(server.post("/v1/rescan", &Value::Null).status, 204);
    }
    server.await_that("the new release", |server| bases(server) == [two.join(NAME)]);
    server.await_ready_overlays(2);
    let answer = server.acquire(&current.join(NAME), &scratch.join("vms/vm"));
    assert_eq!(answer.json()["base"], json!(two.join(NAME)), "{answer:?}");
    // The old one is allowed no more, and nothing is kept of it.
    let answer = server.acquire(&one.join(NAME), &scratch.join("vms/old"));
    assert_eq!(answer.problem(403), "forbidden");
    assert!(!server.get("/metrics").body.contains("/v1/"), "its figures are gone");
}

/// The directory of the images is moved away and another one put in its place.
#[apply(test)]
fn l12_replaced_images_are_found(scratch: Scratch) {
    let images = release(&scratch, "images");
    let server = start(&scratch, &images, &[]);
    std::fs::rename(&images, scratch.join("old")).expect("moved away");
    release(&scratch, "images");
    Image::new(1 << 20).write(&images.join("other.qcow2"));
    let answer = server.acquire(&images.join("other.qcow2"), &scratch.join("vms/vm"));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[apply(test)]
fn t1_images_that_are_gone_leave_the_lists_at_a_rescan(scratch: Scratch) {
    let images = release(&scratch, "images");
    let added = images.join("added.qcow2");
    Image::new(1 << 20).write(&added);
    let mut server = start(&scratch, &images, &[]);
    assert_eq!(server.post("/v1/bases", &json!({ "path": added })).status, 201);
    server.await_ready_overlays(4);
    for gone in [&images.join(NAME), &added] {
        std::fs::remove_file(gone).expect("removed");
    }
    Image::new(1 << 20).write(&images.join("new-base-x86_64.qcow2"));
    assert_eq!(server.post("/v1/rescan", &Value::Null).status, 204);
    server.await_ready_overlays(2);
    assert_eq!(bases(&server), [images.join("new-base-x86_64.qcow2")]);
    let metrics = server.get("/metrics").body;
    assert!(!metrics.contains(NAME) && !metrics.contains("added.qcow2"), "{metrics}");
    let pool = scratch.join("pool");
    let own = std::fs::read_dir(&pool).expect("the pool").flatten().next().expect("its directory");
    server.await_that("their overlays are gone", |_| {
        std::fs::read_dir(own.path()).expect("the overlays").count() == 2
    });
}

/// Without a rescan or an acquire, too.
#[apply(test)]
fn t1_images_that_are_gone_leave_the_lists_when_idle(scratch: Scratch) {
    let images = release(&scratch, "images");
    let mut server = start(&scratch, &images, &["--shelf-idle", "1s"]);
    std::fs::remove_file(images.join(NAME)).expect("removed");
    server.await_that("nothing is kept of it", |server| bases(server).is_empty());
}
