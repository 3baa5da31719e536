//! `api::Client` and a real server.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use overlay_pool::api::{Client, ClientError, Source};
use overlay_pool::image::BaseRef;

use crate::harness::pool_process::is_whole;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

/// The error's name, as the server gives it.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (String, String) {
    match answer {
        Err(ClientError::Refused(problem)) => (problem.error, problem.detail),
        other => panic!("not refused: {other:?}"),
    }
}

#[apply(test)]
async fn a2_a3_an_overlay_is_handed_over_at_a_path(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let client = Client::new(server.socket());
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    for (name, source) in [("a", Source::Pooled), ("b", Source::Pooled), ("c", Source::OnDemand)] {
        let acquired = client.acquire(&base, vms.join(name)).await.expect("an overlay");
        assert_eq!((&acquired.base, &acquired.target), (&base, &vms.join(name)));
        assert_eq!(acquired.source, source);
        assert!(is_whole(&std::fs::read(vms.join(name)).expect("a file"), &base, None));
    }
    let size = 1 << 30;
    let large = client.acquire_sized(&base, vms.join("d"), size).await.expect("an overlay");
    assert_eq!(large.source, Source::OnDemand);
    assert!(is_whole(&std::fs::read(vms.join("d")).expect("a file"), &base, Some(size)));
    let stats = client.stats().await.expect("figures");
    assert_eq!((stats.pooled, stats.on_demand, stats.failed), (2, 2, 0));
    server.stop();
}

#[apply(test)]
async fn an_overlay_is_handed_over_as_an_open_file(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let client = Client::new(server.socket());
    let base = server::base(&scratch);
    for source in [Source::Pooled, Source::Pooled, Source::OnDemand] {
        let mut opened = client.open(&base, None).await.expect("an overlay");
        assert_eq!((&opened.base, opened.source), (&base, source));
        assert_eq!(opened.file.metadata().expect("its metadata").nlink(), 0);
        let mut bytes = Vec::new();
        opened.file.read_to_end(&mut bytes).expect("its bytes");
        assert!(is_whole(&bytes, &base, None));
        opened.file.seek(SeekFrom::Start(0)).expect("its start");
        opened.file.write_all(b"as a guest does").expect("it can be written to");
        // The descriptor isn't there for programs that this one starts.
        let flags = rustix::io::fcntl_getfd(&opened.file).expect("its flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    let size = 1 << 30;
    let mut large = client.open(&base, Some(size)).await.expect("an overlay");
    let mut bytes = Vec::new();
    large.file.read_to_end(&mut bytes).expect("its bytes");
    assert!(is_whole(&bytes, &base, Some(size)));
    let none = client.open(scratch.join("missing.qcow2"), None).await;
    assert_eq!(refused(none).0, "forbidden");
    server.stop();
}

#[apply(test)]
async fn t2_what_is_refused_is_named_and_counted(scratch: Scratch) {
    server::one_base(&scratch);
    std::fs::create_dir(scratch.join("images")).expect("a folder");
    let images = scratch.join("images");
    let mut args = server::one_base_args(&scratch);
    args.extend(["--images".to_owned(), images.to_str().expect("a plain path").to_owned()]);
    let server = Server::start(&scratch, args);
    let client = Client::new(server.socket());
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    std::fs::write(vms.join("there"), "precious").expect("a file");

    // An existing target comes before a bad base image (rule A1).
    for bad in [base.clone(), images.join("missing.qcow2"), scratch.join("outside.qcow2")] {
        let (error, detail) = refused(client.acquire(bad, vms.join("there")).await);
        assert_eq!(error, "already-exists");
        assert!(detail.contains("vms/there"), "{detail}");
    }
    // What can't be made says base, target and cause (rule A7).
    let (error, detail) = refused(client.acquire(&base, vms.join("missing/vm")).await);
    assert_eq!(error, "bad-target");
    for said in ["base.qcow2", "vms/missing/vm", "vms/missing is missing"] {
        assert!(detail.contains(said), "{detail}");
    }
    let missing = images.join("missing.qcow2");
    let (error, detail) = refused(client.acquire(&missing, vms.join("vm")).await);
    assert!(error == "bad-base" && detail.contains("images/missing.qcow2"), "{error}: {detail}");
    assert_eq!(refused(client.open(&missing, None).await).0, "bad-base");
    let text = images.join("text.qcow2");
    std::fs::write(&text, "no image").expect("a file");
    let (error, detail) = refused(client.acquire(&text, vms.join("vm")).await);
    assert!(error == "bad-base" && detail.contains("images/text.qcow2"), "{error}: {detail}");
    assert_eq!(client.stats().await.expect("figures").failed, 7);

    // Where a target may lie is no matter of the pool.
    assert_eq!(refused(client.acquire(&base, scratch.join("vm")).await).0, "forbidden");
    assert_eq!(client.stats().await.expect("figures").failed, 7);
    // As any client sees it.
    assert_eq!(server.acquire(&base, &vms.join("there")).problem(409), "already-exists");
    assert_eq!(server.acquire(&missing, &vms.join("vm")).problem(404), "bad-base");
    assert_eq!(server.acquire(&base, &vms.join("missing/vm")).problem(404), "bad-target");
    assert_eq!(server.acquire(&base, &scratch.join("vm")).problem(403), "forbidden");
    assert_eq!(std::fs::read_to_string(vms.join("there")).expect("it is there"), "precious");
    assert_eq!(std::fs::read_dir(&vms).expect("a folder").count(), 1);
    server.stop();
}

/// A directory that is missing or is none is named; of what lies outside of the roots nothing is said.
#[apply(test)]
async fn a7_the_part_of_a_path_that_is_wrong_is_named(scratch: Scratch) {
    server::one_base(&scratch);
    let images = scratch.join("images");
    std::fs::create_dir(&images).expect("a folder");
    let mut args = server::one_base_args(&scratch);
    args.extend(["--images".to_owned(), images.to_str().expect("a plain path").to_owned()]);
    let server = Server::start(&scratch, args);
    let client = Client::new(server.socket());
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    for root in [&vms, &images] {
        std::fs::write(root.join("file"), "").expect("a file");
        for (name, to) in [("link", "gone"), ("out", "../gone")] {
            std::os::unix::fs::symlink(to, root.join(name)).expect("a link");
        }
    }
    for (path, said) in [
        ("not/here/x", "not is missing"),
        ("file/x", "file is not a directory"),
        ("link/not/x", "link is a link to what is missing"),
    ] {
        for (root, error, answer) in [
            (&vms, "bad-target", client.acquire(&base, vms.join(path)).await),
            (&images, "bad-base", client.acquire(images.join(path), vms.join("vm")).await),
        ] {
            let (name, detail) = refused(answer);
            assert_eq!(name, error, "{detail}");
            let said = format!("{}/{said}", root.display());
            assert!(detail.ends_with(&said), "{detail}");
        }
    }
    for refusal in [
        client.acquire(&base, vms.join("out/not/x")).await,
        client.acquire(images.join("out/not/x"), vms.join("vm")).await,
    ] {
        let (name, detail) = refused(refusal);
        assert!(name == "forbidden" && !detail.contains("missing"), "{name}: {detail}");
    }
    server.stop();
}

#[apply(test)]
async fn base_images_are_added_removed_and_drained(scratch: Scratch) {
    let images = scratch.join("images");
    std::fs::create_dir(&images).expect("a folder");
    // A name that has to be escaped in a URL.
    let (one, raw) = (images.join("a %2F b/?&=#ü-base-x.qcow2"), images.join("disk.img"));
    std::fs::create_dir(one.parent().expect("a folder")).expect("a folder");
    Image::new(1 << 20).write(&one);
    std::fs::write(&raw, [0; 512]).expect("a raw image");
    let images = images.to_str().expect("a plain path");
    let args = ["--images", images, "--targets", images, "--max-vms", "4"];
    let server = Server::start(&scratch, args);
    let client = Client::new(server.socket());
    assert_eq!(client.bases().await.expect("base images"), []);
    assert!(client.is_ready().await.expect("an answer"));

    assert_eq!(client.add_base(&one).await.expect("added"), one);
    assert_eq!(client.add_base(BaseRef::raw(&raw)).await.expect("added"), raw);
    let full = async || {
        let bases = client.bases().await.expect("base images");
        bases.len() == 2 && bases.iter().all(|base| base.ready == 2)
    };
    while !full().await {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.remove_base(&one).await.expect("an answer"), Some(2));
    assert_eq!(client.remove_base(&one).await.expect("an answer"), None);
    // The same path of another format is another base image.
    assert_eq!(client.remove_base(&raw).await.expect("an answer"), None);

    assert_eq!(client.drain().await.expect("drained"), 2);
    assert!(!client.is_ready().await.expect("an answer"));
    let reason = client.not_ready().await.expect("an answer").expect("a reason");
    assert!(reason.contains("drained"), "{reason}");
    client.rescan().await.expect("a rescan");
    assert!(client.is_ready().await.expect("an answer"));
    assert_eq!(refused(client.add_base(Path::new("/etc/hostname")).await).0, "forbidden");
    server.stop();
}

#[apply(test)]
async fn a_server_that_is_not_there_is_named_with_advice(scratch: Scratch) {
    let socket = scratch.join("no.sock");
    let client = Client::new(&socket);
    let error = client.stats().await.expect_err("nobody is there");
    assert!(matches!(&error, ClientError::Connect { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("no.sock") && said.contains("is overlay-pool serve running?"), "{said}");
    assert_eq!(error.name(), None);
    let no_text = scratch.join(OsStr::from_bytes(b"\xff"));
    let error = client.acquire(&no_text, scratch.join("vm")).await.expect_err("no JSON");
    assert!(matches!(error, ClientError::NotUtf8 { path } if path == no_text));
}

/// The connection that was kept is of a server that ended.
#[apply(test)]
async fn another_server_at_the_same_socket_is_found(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let client = Client::new(server.socket());
    let (base, vms) = (server::base(&scratch), server::vms(&scratch));
    client.acquire(&base, vms.join("a")).await.expect("an overlay");
    server.stop();
    let server = Server::start(&scratch, server::one_base_args(&scratch));
    let acquired = client.acquire(&base, vms.join("b")).await.expect("an overlay");
    assert_eq!(acquired.source, Source::Pooled);
    assert_eq!(client.stats().await.expect("figures").pooled, 1);
    server.stop();
}

/// Each of them has a connection for itself.
#[apply(test)]
async fn a4_tasks_share_a_client(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let client = std::sync::Arc::new(Client::new(server.socket()));
    let tasks = (0..64).map(|number| {
        let (client, base) = (client.clone(), server::base(&scratch));
        let target = server::vms(&scratch).join(number.to_string());
        tokio::spawn(async move { client.acquire(base, target).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("it doesn't panic").expect("an overlay");
    }
    let stats = client.stats().await.expect("figures");
    assert_eq!((stats.pooled + stats.on_demand, stats.failed), (64, 0));
    server.stop();
}
