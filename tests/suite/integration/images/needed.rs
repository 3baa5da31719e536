//! What the disks of a server need stays in the store, wherever the server takes base images from.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use super::serve::{name, serve};
use crate::harness::cli::{Answer, answer, run};
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, disk, images, store, stored};
use crate::harness::server::Server;

const NEEDS: &[Need] = &[Need::Registry];

/// Puts a disk into the registry and pulls it; gives the path by which it is named.
#[track_caller]
fn pull(scratch: &Path, registry: &Registry, repository: &str, disk: &[u8]) -> PathBuf {
    registry.put_disk(repository, "1", disk);
    let image = registry.image(&format!("{repository}:1"));
    let pulled = run(&mut images(scratch, &["pull", &image]));
    assert_eq!(pulled.code, Some(0), "{pulled}");
    name(scratch, &image)
}

#[track_caller]
fn acquire(server: &Server, scratch: &Path, base: &Path, target: &str, id: Option<&str>) {
    let mut wanted = json!({ "base": base, "target": scratch.join("vms").join(target) });
    if let Some(id) = id {
        wanted["id"] = json!(id);
    }
    let answer = server.post("/v1/acquire", &wanted);
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.log());
}

fn prune(scratch: &Path) -> Answer {
    run(&mut images(scratch, &["prune"]))
}

#[track_caller]
fn expect_pruned(scratch: &Path) {
    let pruned = prune(scratch);
    assert_eq!(pruned.code, Some(0), "{pruned}");
}

/// A server that was told of no image by its reference has base images of a store, too: its disks are
/// where `images prune` wasn't told of.
#[apply(test)]
#[case::of_the_store_s_directory("--images", "store")]
#[case::of_one_above_the_store("--images", "")]
#[case::by_name("--base", "")]
fn the_image_of_a_disk_stays(
    scratch: Scratch,
    #[case] option: &str,
    #[case] directory: &str,
    #[values(None, Some("vm"))] id: Option<&str>,
) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    let name = pull(&scratch, &registry, "x", &old);
    let path = if option == "--base" { name.clone() } else { scratch.join(directory) };
    let start = || {
        let mut server = serve(&scratch, &[option, path.to_str().expect("a plain path")]);
        server.await_ready();
        server
    };
    let server = start();
    acquire(&server, &scratch, &name, "1.qcow2", id);
    // Its ready overlays go.
    server.stop();
    pull(&scratch, &registry, "x", &new);
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists() && stored(&scratch, &new).exists());

    let server = start();
    match id {
        Some(id) => {
            let removed = server.client().ask("DELETE", &format!("/v1/disks/{id}"), None);
            assert_eq!(removed.expect("an answer").status, 204);
        }
        None => std::fs::remove_file(scratch.join("vms/1.qcow2")).expect("removed"),
    }
    server.stop();
    expect_pruned(&scratch);
    assert!(!stored(&scratch, &old).exists() && stored(&scratch, &new).exists());
}

/// A store that was made anew while a server runs is told anew.
#[apply(test)]
fn a_store_that_is_made_again_is_told_again(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    let name = pull(&scratch, &registry, "x", &old);
    let mut server = serve(&scratch, &["--images", "store"]);
    server.await_ready();
    acquire(&server, &scratch, &name, "1.qcow2", None);
    std::fs::remove_dir_all(store(&scratch)).expect("removed");
    assert_eq!(pull(&scratch, &registry, "x", &old), name);
    server.signal(Signal::HUP);
    server.await_that("it looks again", |server| server.log().contains("rescan"));
    acquire(&server, &scratch, &name, "2.qcow2", None);
    server.stop();
    pull(&scratch, &registry, "x", &new);
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists());
}

/// Where others may keep directories from being read, what has a record is known nevertheless.
#[apply(test)]
fn by_leases_alone_no_targets_are_looked_at(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let disks = [disk(1, 1), disk(1, 2)];
    let [leased, other] = disks.each_ref().map(|bytes| stored(&scratch, bytes));
    let names = [("x", &disks[0]), ("y", &disks[1])]
        .map(|(repository, bytes)| pull(&scratch, &registry, repository, bytes));
    let arguments = ["--base", names[0].to_str().expect("a plain path"), "--images", "store"];
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    acquire(&server, &scratch, &names[0], "1.qcow2", Some("vm"));
    acquire(&server, &scratch, &names[1], "2.qcow2", None);
    server.stop();
    for repository in ["x", "y"] {
        pull(&scratch, &registry, repository, &disk(1, 9));
    }
    expect_pruned(&scratch);
    assert!(leased.exists() && other.exists());

    let mut server = serve(&scratch, &[&arguments[..], &["--prune-by-leases"]].concat());
    server.await_ready();
    server.stop();
    // Who can't tell what is in use removes nothing.
    let record = scratch.join("pool/leases/strange");
    std::fs::write(&record, "not a record").expect("a file");
    let refused = prune(&scratch);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("strange is no record of a disk"), "{refused}");
    assert!(leased.exists() && other.exists());
    std::fs::remove_file(record).expect("removed");
    expect_pruned(&scratch);
    assert!(leased.exists(), "a record names it");
    assert!(!other.exists(), "nobody has said that there is a disk of it");
}

/// Records that aren't there, as on a filesystem that isn't mounted, are no sign that nothing is in use.
#[apply(test)]
fn records_that_are_missing_keep_all_images(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    let name = pull(&scratch, &registry, "x", &old);
    let by_leases = ["--base", name.to_str().expect("a plain path"), "--prune-by-leases"];
    let mut server = serve(&scratch, &by_leases);
    server.await_ready();
    acquire(&server, &scratch, &name, "1.qcow2", Some("vm"));
    server.stop();
    pull(&scratch, &registry, "x", &new);

    let [pool, away] = ["pool", "away"].map(|name| scratch.join(name));
    std::fs::rename(&pool, &away).expect("moved");
    let refused = prune(&scratch);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(stored(&scratch, &old).exists(), "a disk needs it");
    let leases = pool.join("leases").display().to_string();
    assert!(refused.stderr.contains(&leases), "{refused}");
    std::fs::rename(&away, &pool).expect("moved back");
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists(), "its record names it");

    // As the message says for a server that never comes back.
    std::fs::remove_dir_all(&pool).expect("removed");
    let note = refused.stderr.split_once("rm '").expect("what to do").1;
    std::fs::remove_file(note.split_once('\'').expect("its end").0).expect("the note");
    expect_pruned(&scratch);
    assert!(!stored(&scratch, &old).exists() && stored(&scratch, &new).exists());
}

/// A server of which no disk has an id yet has its place for records nevertheless.
#[apply(test)]
fn a_server_without_disks_keeps_nothing(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    let name = pull(&scratch, &registry, "x", &old);
    let mut server = serve(&scratch, &["--base", name.to_str().expect("a plain path")]);
    server.await_ready();
    server.stop();
    pull(&scratch, &registry, "x", &new);
    expect_pruned(&scratch);
    assert!(!stored(&scratch, &old).exists() && stored(&scratch, &new).exists());
}

/// A base image elsewhere that refers to one in the store needs it as its disks do.
#[apply(test)]
fn what_a_base_image_elsewhere_refers_to_stays(
    scratch: Scratch,
    #[values(None, Some("vm"))] id: Option<&str>,
) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    pull(&scratch, &registry, "x", &old);
    let middle = scratch.join("middle.qcow2");
    let made = answer(&scratch, [Path::new("create"), &stored(&scratch, &old), &middle]);
    assert_eq!(made.code, Some(0), "{made}");
    let mut arguments = vec!["--base", middle.to_str().expect("a plain path")];
    arguments.push("--allow-references");
    // Then no header of a disk is looked at.
    arguments.extend(id.map(|_| "--prune-by-leases"));
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    acquire(&server, &scratch, &middle, "1.qcow2", id);
    server.stop();
    pull(&scratch, &registry, "x", &new);
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists(), "a disk needs it");
}

/// As `images prune` does it.
#[apply(test)]
fn a_server_prunes_by_leases(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    registry.put_disk("x", "1", &old);
    let image = registry.image("x:1");
    let mut server = serve(&scratch, &["--image", &image, "--prune-by-leases"]);
    server.await_ready();
    acquire(&server, &scratch, &name(&scratch, &image), "1.qcow2", Some("vm"));
    registry.put_disk("x", "1", &new);
    let look = |server: &mut Server| {
        let looks = |server: &Server| server.log().matches("looked for other images").count();
        let before = looks(server);
        server.signal(Signal::HUP);
        server.await_that("it has looked", |server| looks(server) > before);
    };
    server.await_that("it looks at its start", |server| server.log().contains("looked for other"));
    // At the second of them it has pruned after the first.
    look(&mut server);
    server.await_that("it has the new one", |_| stored(&scratch, &new).exists());
    look(&mut server);
    look(&mut server);
    assert!(stored(&scratch, &old).exists(), "{}", server.log());
    let removed = server.client().ask("DELETE", "/v1/disks/vm", None).expect("an answer");
    assert_eq!(removed.status, 204, "{removed:?}");
    look(&mut server);
    server.await_that("the old one is pruned", |_| !stored(&scratch, &old).exists());
    server.stop();
}

/// As on a node of a cluster, where the store may be mounted read-only.
#[apply(test)]
fn a_store_that_can_t_be_told_is_named(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let name = pull(&scratch, &registry, "x", &disk(1, 1));
    std::fs::remove_dir(store(&scratch).join("leases")).expect("it is empty");
    std::fs::write(store(&scratch).join("leases"), "in the way").expect("a file");
    let mut server = serve(&scratch, &["--images", "store"]);
    server.await_ready();
    for target in ["1.qcow2", "2.qcow2"] {
        acquire(&server, &scratch, &name, target, None);
    }
    let log = server.log();
    assert_eq!(log.matches("the store can't be told").count(), 1, "{log}");
    server.stop();
}
