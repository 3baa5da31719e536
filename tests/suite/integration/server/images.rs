//! Which base images a server keeps ready, and which others clients may name.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::http::Response;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::Server;

/// A folder `images`, one base image in it, and one outside of it.
fn images(scratch: &Path) -> (PathBuf, PathBuf) {
    let [images, store] = ["images", "store"].map(|name| scratch.join(name));
    for folder in [&images, &store] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::create_dir(scratch.join("pool")).expect("a folder");
    Image::new(1 << 20).write(&images.join("python-base-x86_64.qcow2"));
    Image::new(2 << 20).write(&store.join("node.qcow2"));
    (images, store)
}

fn start(scratch: &Path, images: &Path) -> Server {
    let images = images.to_str().expect("a plain path");
    Server::start(scratch, ["--images", images, "--max-vms", "4", "--restock-interval", "0s"])
}

/// Acquires at a new target in the pool's own place.
fn acquire(server: &Server, scratch: &Path, base: &Path) -> Response {
    let pool = scratch.join("pool");
    let number = pool.read_dir().expect("the targets").count();
    server.acquire(base, &pool.join(format!("vm-{number}.qcow2")))
}

fn bases(server: &Server) -> Vec<PathBuf> {
    let bases = server.get("/v1/bases").json();
    let bases = bases.as_array().expect("a list").iter();
    bases.map(|base| base["path"].as_str().expect("a path").into()).collect()
}

#[apply(test)]
fn a_link_out_of_the_images_is_followed_by_both_names(scratch: Scratch) {
    let (images, store) = images(&scratch);
    let (link, real) = (images.join("node-base-x86_64.qcow2"), store.join("node.qcow2"));
    symlink(&real, &link).expect("a link");
    let server = start(&scratch, &images);
    assert_eq!(bases(&server), [images.join("python-base-x86_64.qcow2"), real.clone()]);
    for name in [&link, &real] {
        let answer = acquire(&server, &scratch, name);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["base"], json!(real));
        assert_eq!(answer.json()["source"], "pooled");
    }
}

/// Links among the images are the administrator's to make, and no others lead to a base image.
#[apply(test)]
fn links_of_others_name_no_base(scratch: Scratch) {
    let (images, store) = images(&scratch);
    let server = start(&scratch, &images);
    let why = |base: &Path| {
        let answer = acquire(&server, &scratch, base);
        assert_eq!(answer.problem(403), "forbidden", "{answer:?}");
        answer.json()["detail"].as_str().expect("a text").to_owned()
    };
    let elsewhere = scratch.join("link.qcow2");
    symlink(images.join("python-base-x86_64.qcow2"), &elsewhere).expect("a link");
    assert!(why(&elsewhere).contains("outside of the directories"));
    let late = images.join("late.qcow2");
    symlink(store.join("node.qcow2"), &late).expect("a link");
    assert!(why(&late).contains("outside of the directories"));
    std::fs::set_permissions(&store, Permissions::from_mode(0o777)).expect("a mode");
    let told = why(&late);
    assert!(told.contains("others may write") && told.contains("store"), "{told}");
}

#[apply(test)]
fn images_in_a_linked_directory_are_found(scratch: Scratch) {
    let (images, _) = images(&scratch);
    let link = scratch.join("link");
    symlink(&images, &link).expect("a link");
    let server = start(&scratch, &link);
    for folder in [&link, &images] {
        let answer = acquire(&server, &scratch, &folder.join("python-base-x86_64.qcow2"));
        assert_eq!((answer.status, &answer.json()["source"]), (200, &json!("pooled")));
    }
}

#[apply(test)]
fn after_a_rescan_the_new_ones_are_there(scratch: Scratch, #[values(true, false)] signal: bool) {
    let (images, store) = images(&scratch);
    let mut server = start(&scratch, &images);
    let (link, real) = (images.join("node-base-x86_64.qcow2"), store.join("node.qcow2"));
    symlink(&real, &link).expect("a link");
    Image::new(1 << 20).write(&images.join("ruby-base-x86_64.qcow2"));
    for name in [&link, &real] {
        assert_eq!(acquire(&server, &scratch, name).problem(403), "forbidden");
    }
    if signal {
        server.signal(Signal::HUP);
    } else {
        assert_eq!(server.post("/v1/rescan", &Value::Null).status, 204);
    }
    server.await_ready_overlays(6);
    for name in [&link, &real] {
        assert_eq!(acquire(&server, &scratch, name).status, 200);
    }
    // What the administrator took away may no more be named.
    std::fs::remove_file(&link).expect("unlinked");
    server.post("/v1/rescan", &Value::Null);
    assert_eq!(acquire(&server, &scratch, &real).problem(403), "forbidden");
}

#[apply(test)]
fn named_ones_are_served_wherever_they_lie(scratch: Scratch) {
    let (_, store) = images(&scratch);
    let (link, raw) = (scratch.join("link"), scratch.join("disk.img"));
    symlink(store.join("node.qcow2"), &link).expect("a link");
    std::fs::write(&raw, [0; 512]).expect("a raw image");
    let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let args = ["--base", &text(&link), "--raw-base", &text(&raw), "--max-vms=4"];
    let mut server = Server::start(&scratch, args);
    for name in [&link, &store.join("node.qcow2")] {
        assert_eq!(acquire(&server, &scratch, name).json()["source"], "pooled");
    }
    let target = scratch.join("pool/raw.qcow2");
    let request = json!({ "base": raw, "format": "raw", "target": target });
    assert_eq!(server.post("/v1/acquire", &request).json()["source"], "pooled");
    // Nothing else is looked for, whatever lies in the working directory.
    server.signal(Signal::HUP);
    server.await_that("it has looked", |server| server.log().contains("rescan"));
    assert_eq!(bases(&server), [raw, store.join("node.qcow2")]);
}

#[apply(test)]
fn hostile_bases_are_refused(scratch: Scratch) {
    let (images, store) = images(&scratch);
    std::fs::create_dir(images.join("sub-base-.qcow2")).expect("a folder");
    mknodat(CWD, images.join("fifo-base-.qcow2"), FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
    // Nobody looked at it before it is asked for.
    mknodat(CWD, images.join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
    symlink("/dev/zero", images.join("zero-base-.qcow2")).expect("a link");
    symlink(store.join("node.qcow2"), images.join("private")).expect("a link");
    symlink("loop", images.join("loop")).expect("a link");
    std::fs::write(images.join("text.qcow2"), "this is no image").expect("a file");
    let server = start(&scratch, &images);
    let good = images.join("python-base-x86_64.qcow2");
    for (base, status, error) in [
        (images.join("sub-base-.qcow2"), 422, "bad-base"),
        (images.join("fifo-base-.qcow2"), 422, "bad-base"),
        (images.join("pipe"), 422, "bad-base"),
        (images.join("zero-base-.qcow2"), 422, "bad-base"),
        (images.join("text.qcow2"), 422, "bad-base"),
        (images.clone(), 422, "bad-base"),
        (images.join("missing.qcow2"), 404, "bad-base"),
        (good.join("below"), 404, "bad-base"),
        (images.join("private"), 403, "forbidden"),
        (images.join("loop"), 403, "forbidden"),
        (store.join("node.qcow2"), 403, "forbidden"),
        (images.join("../store/node.qcow2"), 403, "forbidden"),
        ("/dev/null".into(), 403, "forbidden"),
        ("/etc/passwd".into(), 403, "forbidden"),
        (images.join(format!("/proc/{}/root/etc/passwd", std::process::id())), 403, "forbidden"),
        ("python-base-x86_64.qcow2".into(), 400, "bad-request"),
        ("".into(), 400, "bad-request"),
        (images.join("nul\0.qcow2"), 422, "bad-base"),
        (images.join("n".repeat(300)), 422, "bad-base"),
        (images.join("long/".repeat(1000)), 422, "bad-base"),
    ] {
        let answer = acquire(&server, &scratch, &base);
        assert_eq!(answer.problem(status), error, "{}", base.display());
        let request = json!({ "path": base });
        assert_eq!(server.post("/v1/bases", &request).problem(status), error, "{}", base.display());
        assert_eq!(server.post("/v1/open", &json!({ "base": base })).problem(status), error);
    }
    assert_eq!(acquire(&server, &scratch, &good).status, 200);
}

/// Who named the files otherwise is told, and not left to wonder why nothing is pooled.
#[apply(test)]
fn what_is_not_kept_ready_is_told(scratch: Scratch) {
    let (images, _) = images(&scratch);
    let server = start(&scratch, &images);
    assert_eq!(server.get("/readyz").body, "ok\n");
    server.stop();

    std::fs::remove_file(images.join("python-base-x86_64.qcow2")).expect("it is gone");
    for name in ["a.qcow2", "b\n.img", "c.qcow2", "d.qcow2", "e.qcow2", ".hidden"] {
        std::fs::write(images.join(name), "").expect("a file");
    }
    let server = start(&scratch, &images);
    let expected = [
        "there is no base image to keep overlays ready of".to_owned(),
        format!(
            "not kept ready, since their names don't fit *-base-*.qcow2: a.qcow2, b\\n.img, c.qcow2 \
             and 2 more in {}; rename them, or name them with --base",
            images.display()
        ),
    ];
    let answer = server.get("/readyz");
    assert_eq!(
        (answer.status, answer.body),
        (200, format!("ok\nnote: {}\n", expected.join("\nnote: ")))
    );
    let log = server.log();
    assert!(log.contains(&expected[0]) && log.contains("and 2 more in "), "{log}");

    // A rescan looks anew.
    std::fs::rename(images.join("a.qcow2"), images.join("a-base-1.qcow2")).expect("a name");
    assert_eq!(server.post("/v1/rescan", &Value::Null).status, 204);
    let answer = server.get("/readyz").body;
    assert!(!answer.contains("no base image") && answer.contains("and 1 more"), "{answer}");
    server.stop();
}
