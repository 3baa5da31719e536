//! What the disks of a server need stays in the store, wherever the server takes base images from.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;

use super::serve::{name, serve};
use crate::harness::cli::{Answer, answer, overlay_pool_after, run};
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, disk, images, store, stored};
use crate::harness::scratch::names;
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

/// Does what is said for records that are gone for good.
#[track_caller]
fn forget(refused: &Answer) {
    let note = refused.stderr.split_once("rm '").expect("what to do").1;
    std::fs::remove_file(note.split_once('\'').expect("its end").0).expect("the note");
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
    std::fs::create_dir(scratch.join("pool/leases/lost+found")).expect("a folder");
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
    // Nor are others a sign, such as a server's that has begun anew there.
    std::fs::create_dir_all(&leases).expect("a folder");
    assert_eq!(prune(&scratch).code, Some(1));
    std::fs::remove_dir_all(&pool).expect("removed");
    let mut server = serve(&scratch, &by_leases);
    server.await_ready();
    acquire(&server, &scratch, &name, "2.qcow2", Some("other"));
    server.stop();
    let with_others = prune(&scratch);
    assert_eq!((with_others.code, &with_others.stderr), (Some(1), &refused.stderr));
    std::fs::remove_dir_all(&pool).expect("removed");
    std::fs::rename(&away, &pool).expect("moved back");
    let others_missing = prune(&scratch);
    assert_eq!(others_missing.code, Some(1), "{others_missing}");
    forget(&others_missing);
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists(), "its record names it");

    std::fs::remove_dir_all(&pool).expect("removed");
    forget(&refused);
    expect_pruned(&scratch);
    assert!(!stored(&scratch, &old).exists() && stored(&scratch, &new).exists());
}

/// Two servers that call different directories the same, each in a mount namespace of its own, have different
/// records: who sees those of one knows nothing of the other's.
#[apply(test)]
#[needs(MountNamespace)]
fn records_of_another_namespace_keep_all_images(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let disks = [disk(1, 1), disk(1, 2)];
    let images = disks.each_ref().map(|bytes| {
        pull(&scratch, &registry, "x", bytes);
        stored(&scratch, bytes)
    });
    let within = |own: &str| {
        std::fs::create_dir_all(scratch.join(own)).expect("a folder");
        let mut command = overlay_pool_after(&format!("mount --bind {own} data"), &scratch);
        command.env("OVERLAY_POOL_STORE", store(&scratch));
        command.env("OVERLAY_POOL_DIR", scratch.join("data/pool"));
        command
    };
    for folder in ["data", "vms"] {
        std::fs::create_dir_all(scratch.join(folder)).expect("a folder");
    }
    for (own, image) in ["one", "other"].into_iter().zip(&images) {
        let mut command = within(own);
        command.args(["serve", "--max-vms", "0", "--prune-by-leases", "--images", "store"]);
        command.args(["--targets", "vms", "--socket"]).arg(scratch.join("pool.sock"));
        let mut server = Server::launch(&scratch, &mut command);
        server.await_ready();
        acquire(&server, &scratch, image, own, Some(own));
        server.stop();
    }
    pull(&scratch, &registry, "x", &disk(1, 3));
    for own in ["one", "other"] {
        let refused = run(within(own).args(["images", "prune"]));
        assert_eq!(refused.code, Some(1), "{refused}");
        assert!(images.iter().all(|image| image.exists()));
    }
}

/// What somebody moved aside who was killed while it was pruned is put back by a server, too, and nothing
/// that isn't whole, or may be gone the next moment, is a base image.
#[apply(test)]
#[case::of_a_directory(&["--images", "store"])]
#[case::by_name(&["--base"])]
fn an_image_that_was_left_aside_is_put_back(scratch: Scratch, #[case] option: &[&str]) {
    let registry = Registry::start(&scratch);
    let bytes = disk(1, 1);
    let name = pull(&scratch, &registry, "x", &bytes);
    let image = stored(&scratch, &bytes);
    let aside = store(&scratch).join("aside").join(image.file_name().expect("a digest"));
    let of_name = name.to_str().filter(|_| option.len() == 1);
    let mut arguments = option.to_vec();
    arguments.extend(of_name);
    std::fs::rename(&image, &aside).expect("moved");
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    acquire(&server, &scratch, &name, "1.qcow2", None);
    std::fs::rename(&image, &aside).expect("moved");
    let wanted = json!({ "base": aside, "target": scratch.join("vms/2.qcow2") });
    let refused = server.post("/v1/acquire", &wanted);
    match of_name {
        Some(_) => assert_eq!(refused.problem(403), "forbidden"),
        None => assert_eq!(refused.problem(422), "bad-base"),
    }
    server.signal(Signal::HUP);
    server.await_that("it is put back", |_| image.exists());
    acquire(&server, &scratch, &name, "2.qcow2", None);
    server.stop();
}

/// A directory of records that a mount hides is another one than what is made in its place, and so is a
/// copy of it elsewhere: what is recorded in the one is not in the other.
#[apply(test)]
#[case::hidden(false)]
#[case::copied(true)]
fn records_elsewhere_keep_their_images(scratch: Scratch, #[case] copied: bool) {
    let registry = Registry::start(&scratch);
    let disks = [disk(1, 1), disk(1, 2)];
    let images = disks.each_ref().map(|bytes| {
        pull(&scratch, &registry, "x", bytes);
        stored(&scratch, bytes)
    });
    pull(&scratch, &registry, "x", &disk(1, 3));
    let arguments = ["--images", "store", "--prune-by-leases"];
    let start = || {
        let mut server = serve(&scratch, &arguments);
        server.await_ready();
        server
    };
    let [leases, away, pool] = ["pool/leases", "away", "pool"].map(|name| scratch.join(name));
    let mut server = start();
    acquire(&server, &scratch, &images[0], "1.qcow2", Some("1"));
    if copied {
        server.stop();
        let copy = std::process::Command::new("cp").arg("-a").args([&pool, &away]).status();
        assert!(copy.expect("it runs").success());
        let mut command = Server::command(&scratch);
        command.args(arguments).args(["--targets", "vms", "--max-vms", "0", "--dir"]).arg(&away);
        command.env("OVERLAY_POOL_STORE", store(&scratch));
        server = Server::launch(&scratch, &mut command);
        server.await_ready();
    } else {
        // As below a mount.
        std::fs::rename(&leases, &away).expect("moved");
    }
    acquire(&server, &scratch, &images[1], "2.qcow2", Some("2"));
    server.stop();
    if !copied {
        std::fs::remove_dir_all(&leases).expect("removed");
        std::fs::rename(&away, &leases).expect("moved back");
        assert_eq!(prune(&scratch).code, Some(1));
    }
    let server = start();
    acquire(&server, &scratch, &images[0], "3.qcow2", Some("3"));
    server.stop();
    prune(&scratch);
    assert!(images.iter().all(|image| image.exists()));
}

/// A server knows its disks from its start on, also those of another store than it was told of then.
#[apply(test)]
fn a_store_is_told_of_the_disks_that_are_there(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let (old, new) = (disk(1, 1), disk(1, 2));
    let name = pull(&scratch, &registry, "x", &old);
    let arguments = ["--base", name.to_str().expect("a plain path"), "--prune-by-leases"];
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    acquire(&server, &scratch, &name, "1.qcow2", Some("1"));
    server.stop();
    pull(&scratch, &registry, "x", &new);
    // As those of an older server.
    std::fs::remove_file(scratch.join("pool/leases/seal")).expect("removed");
    let notes = store(&scratch).join("leases");
    let note = || names(&notes).len();
    for noted in names(&notes) {
        std::fs::remove_file(notes.join(noted)).expect("removed");
    }
    let mut server = serve(&scratch, &arguments);
    server.await_that("it is told", |_| note() == 1);
    server.stop();
    expect_pruned(&scratch);
    assert!(stored(&scratch, &old).exists());

    // A server that has none any more is expected to have none.
    let mut server = serve(&scratch, &arguments);
    server.await_ready();
    let removed = server.client().ask("DELETE", "/v1/disks/1", None).expect("an answer");
    assert_eq!(removed.status, 204);
    server.stop();
    assert_eq!(note(), 0);
    std::fs::remove_dir_all(scratch.join("pool")).expect("removed");
    expect_pruned(&scratch);
    assert!(!stored(&scratch, &old).exists());
}

/// A server of which no disk has an id has no records that could be missing.
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
    if id.is_some() {
        // As where it is isn't mounted: the record has what it refers to.
        std::fs::rename(&middle, scratch.join("away")).expect("moved");
    }
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
        acquire(&server, &scratch, &name, target, Some(target));
    }
    let log = server.log();
    assert_eq!(log.matches("the store can't be told").count(), 1, "{log}");
    server.stop();
}
