//! Where disks with an id are, and what the server keeps of them.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::process::Command;

use serde_json::{Value, json};

use super::{delete, ids, killed_and_started_again, records, request, target_of};
use crate::harness::cli;
use crate::harness::faults::{fuse, strace};
use crate::harness::pool_process::is_whole;
use crate::harness::prelude::*;
use crate::harness::qemu;
use crate::harness::server::{self, Server};
use crate::integration::server::{names, start};

/// If nothing can be moved there, the disk is a copy of a ready one.
#[apply(test)]
#[needs(SecondFilesystem, QemuImg)]
fn a_disk_on_another_filesystem(scratch: Scratch, #[from(scratch_in_memory)] elsewhere: Scratch) {
    server::one_base(&scratch);
    let mut args = server::one_base_args(&scratch);
    args.extend(["--targets".to_owned(), elsewhere.to_str().expect("a plain path").to_owned()]);
    let server = Server::start(&scratch, args);
    let base = server::base(&scratch);
    for (name, size) in [("plain", None), ("larger", Some(8_u64 << 40))] {
        let target = elsewhere.join(name);
        let wanted = json!({ "base": base, "target": target, "id": name, "virtual_size": size });
        let first = server.post("/v1/acquire", &wanted);
        assert_eq!(first.status, 200, "{first:?}");
        assert!(is_whole(&std::fs::read(&target).expect("a disk"), &base, size), "{name}");
        assert_eq!(std::fs::metadata(&target).expect("a disk").mode() & 0o7777, 0o600);
        qemu::check(&target);
        assert_eq!(server.post("/v1/acquire", &wanted).json(), first.json());
        assert_eq!(delete(&server, &format!("/v1/disks/{name}")).status, 204);
        assert!(!target.exists());
    }
    assert_eq!((names(&elsewhere), records(&scratch)), (vec![], vec![]));
    server.stop();
}

/// Two servers may have one place, but each keeps its own leases.
#[apply(test)]
fn another_server_s_leases_are_left(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let wanted = request(&scratch, "vm", "vm");
    assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    let other = |more: &[&str]| {
        let mut command = Server::command(&scratch);
        command.args(server::one_base_args(&scratch)).args(more);
        let mut other = Server::launch_at(&scratch, scratch.join("other.sock"), &mut command);
        other.await_ready();
        other
    };
    let second = other(&[]);
    let refused = second.post("/v1/acquire", &wanted);
    assert_eq!(refused.problem(503), "no-leases");
    assert!(refused.body.contains("--leases"), "{refused:?}");
    assert_eq!(delete(&second, "/v1/disks/vm").problem(503), "no-leases");
    assert_eq!(second.acquire(&server::base(&scratch), &target_of(&scratch, "2")).status, 200);
    second.stop();

    let third = other(&["--leases", scratch.join("own/leases").to_str().expect("a plain path")]);
    assert_eq!(third.post("/v1/acquire", &wanted).problem(409), "already-exists");
    assert_eq!(third.post("/v1/acquire", &request(&scratch, "vm", "3")).status, 200);
    assert_eq!((ids(&third, ""), ids(&server, "")), (vec!["vm".to_owned()], vec!["vm".to_owned()]));
    third.stop();
    assert_eq!(delete(&server, "/v1/disks/vm").status, 204);
    assert_eq!(names(&server::vms(&scratch)), ["2", "3"]);
    server.stop();
}

/// Nobody has the server take a disk of theirs for what it keeps of disks.
#[apply(test)]
fn no_disk_among_the_leases(scratch: Scratch) {
    server::one_base(&scratch);
    let mut args = server::one_base_args(&scratch);
    args.truncate(args.len() - 2); // targets may lie in the pool's place
    let server = Server::start(&scratch, args);
    let (base, leases) = (server::base(&scratch), scratch.join("pool/leases"));
    assert_eq!(server.acquire(&base, &leases).problem(422), "bad-target");
    let wanted = json!({ "base": base, "target": scratch.join("pool/vm"), "id": "vm" });
    assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    symlink("leases", scratch.join("pool/link")).expect("a link");
    for target in [leases.join("0-vm2"), scratch.join("pool/link/0-vm2")] {
        assert_eq!(server.acquire(&base, &target).problem(422), "bad-target");
    }
    assert_eq!(records(&scratch).len(), 1);
    server.stop();
}

/// A disk that the server couldn't find again isn't handed over.
#[apply(test)]
fn no_disk_without_its_record(scratch: Scratch) {
    let server = start(&scratch, &[]);
    let wanted = request(&scratch, "vm", "vm");
    std::fs::write(scratch.join("pool/leases"), "in the way").expect("a file");
    let refused = server.post("/v1/acquire", &wanted);
    assert_eq!(refused.problem(500), "no-leases");
    assert!(refused.body.contains("/pool/leases"), "{refused:?}");
    std::fs::remove_file(scratch.join("pool/leases")).expect("removed");
    assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    server.stop();
}

/// As the pool's directory, that of the leases is made again, with all that the server knows: if it
/// was removed, or moved away where no other server finds it.
#[apply(test)]
fn a_directory_of_leases_that_is_gone_is_made_again(
    scratch: Scratch,
    #[values(false, true)] moved: bool,
) {
    let server = start(&scratch, &[]);
    let leases = scratch.join("pool/leases");
    let wanted = ["1", "2", "3"].map(|vm| request(&scratch, vm, vm));
    let ask = |server: &Server, wanted: &Value| {
        let answer = server.post("/v1/acquire", wanted);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let mut answers = vec![ask(&server, &wanted[0]), ask(&server, &wanted[1])];
    if moved {
        std::fs::rename(&leases, scratch.join("moved")).expect("moved");
        std::fs::DirBuilder::new().mode(0o700).create(&leases).expect("a folder");
    } else {
        std::fs::remove_dir_all(&leases).expect("removed");
    }
    assert_eq!(delete(&server, "/v1/disks/2").status, 204);
    answers[1] = ask(&server, &wanted[2]);
    assert_eq!(records(&scratch).len(), 2);
    let server = killed_and_started_again(server, &scratch);
    assert_eq!(ids(&server, ""), ["1", "3"]);
    assert_eq!(answers, [ask(&server, &wanted[0]), ask(&server, &wanted[2])]);
    assert_eq!(names(&server::vms(&scratch)), ["1", "3"]);
    server.stop();
}

/// What the server can't read in its directory is named, and disturbs nothing.
#[apply(test)]
fn a_file_that_is_no_record_is_named(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    assert_eq!(server.post("/v1/acquire", &request(&scratch, "vm", "vm")).status, 200);
    let leases = scratch.join("pool/leases");
    let record = leases.join(&records(&scratch)[0]);
    std::fs::copy(&record, leases.join("1-other")).expect("a copy");
    std::fs::write(leases.join("2-cut"), &std::fs::read(&record).expect("it")[..20])
        .expect("a file");
    std::fs::write(leases.join("3-empty"), "").expect("a file");
    std::fs::create_dir(leases.join("4-folder")).expect("a folder");
    let mut server = killed_and_started_again(server, &scratch);
    assert_eq!(ids(&server, ""), ["vm"]);
    for name in ["1-other", "2-cut", "3-empty", "4-folder"] {
        let path = leases.join(name);
        server
            .await_that("it is named", |server| server.log().contains(path.to_str().expect("it")));
        assert!(path.exists());
    }
    server.stop();
}

/// A server that lacks descriptors for a moment takes no record for none: it reads them later.
#[apply(test)]
#[needs(Strace)]
fn a_record_that_cannot_be_read_now_is_read_later(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let wanted = request(&scratch, "vm", "vm");
    let answer = server.post("/v1/acquire", &wanted).json();
    server.stop();
    let leases = scratch.join("pool/leases");
    let mut command = strace::around(&scratch.join("strace.log"));
    command.args(["-e", "trace=openat", "-e", "inject=openat:error=EMFILE:when=3"]);
    // Of the directory, twice, and then of the record.
    command.arg("-P").arg(leases).arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(&scratch)).env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    server.await_that("it has tried", |server| server.log().contains("Too many open files"));
    assert!(!server.log().contains("no record of a disk"), "{}", server.log());
    // Once for each of its threads.
    server.await_that("they are read", |server| server.get("/v1/disks/vm").status == 200);
    assert_eq!(server.post("/v1/acquire", &wanted).json(), answer);
    server.stop();
}

/// Where files are numbered anew a disk could not be told from a stranger's file: so none is had there
/// by an id, and one without is, as ever.
#[apply(test)]
#[needs(Fuse, MountNamespace)]
fn no_disk_with_an_id_on_a_filesystem_in_user_space(scratch: Scratch) {
    server::one_base(&scratch);
    std::fs::create_dir(scratch.join("user")).expect("a folder");
    let script = format!("{}exec \"$@\"", fuse::mount("user"));
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(&scratch)).arg("--targets").arg(scratch.join("user"));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool")).current_dir(&*scratch);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let (base, target) = (server::base(&scratch), scratch.join("user/vm"));
    let wanted = json!({ "base": base, "target": target, "id": "vm" });
    let refused = server.post("/v1/acquire", &wanted);
    assert_eq!(refused.problem(422), "bad-target");
    assert!(
        refused.body.contains("FUSE") && refused.body.contains("leave the id out"),
        "{refused:?}"
    );
    assert_eq!((ids(&server, ""), records(&scratch)), (vec![], vec![]));
    assert_eq!(server.acquire(&base, &target).status, 200);
    assert_eq!(server.post("/v1/acquire", &request(&scratch, "vm", "vm")).status, 200);
    server.stop();
}

/// It was removed with all that was in it, or a file took its place.
#[apply(test)]
fn a_disk_whose_directory_is_gone_is_gone(scratch: Scratch, #[values(false, true)] is_file: bool) {
    let server = Server::of_one_base(&scratch);
    let folder = server::vms(&scratch).join("folder");
    std::fs::create_dir(&folder).expect("a folder");
    let wanted = request(&scratch, "one", "folder/disk");
    assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    std::fs::remove_dir_all(&folder).expect("it is removed");
    if is_file {
        std::fs::write(&folder, "a file").expect("a file");
    }
    assert_eq!(server.get("/v1/disks/one").problem(404), "unknown-disk");
    assert_eq!((ids(&server, ""), records(&scratch)), (vec![], vec![]));
    server.stop();
}

/// Its user removed it while no server was there, or the directory that it was in; nobody has to ask
/// for it.
#[apply(test)]
fn a_server_forgets_at_its_start_what_is_gone(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    std::fs::create_dir(target_of(&scratch, "folder")).expect("a folder");
    for (id, target) in [("gone", "gone"), ("below", "folder/gone"), ("there", "there")] {
        assert_eq!(server.post("/v1/acquire", &request(&scratch, id, target)).status, 200);
    }
    server.stop();
    std::fs::remove_file(target_of(&scratch, "gone")).expect("it is removed");
    std::fs::remove_dir_all(target_of(&scratch, "folder")).expect("it is removed");
    let mut server = Server::start(&scratch, server::one_base_args(&scratch));
    server.await_that("it is forgotten", |_| records(&scratch).len() == 1);
    server.await_that("it is in no list", |server| ids(server, "") == ["there"]);
    server.stop();
}

/// A disk on a filesystem that isn't mounted is nowhere, and comes back. Until then its lease stays.
#[apply(test)]
#[needs(SecondFilesystem, MountNamespace)]
fn a_disk_whose_filesystem_is_not_mounted_keeps_its_lease(
    scratch: Scratch,
    #[from(scratch_in_memory)] elsewhere: Scratch,
) {
    server::one_base(&scratch);
    let mounted = target_of(&scratch, "mounted");
    for folder in [&mounted, &elsewhere.join("folder")] {
        std::fs::create_dir(folder).expect("a folder");
    }
    let start = |setup: &str| {
        let mut command = cli::overlay_pool_after(setup, &scratch);
        command.arg("serve").args(server::one_base_args(&scratch));
        let mut server = Server::launch(&scratch, &mut command);
        server.await_ready();
        server
    };
    let mount = format!("mount --bind '{}' '{}'", elsewhere.display(), mounted.display());
    let server = start(&mount);
    // Of one its directory is missing then, of the other it is another one.
    let disks = [("below", "mounted/folder/disk"), ("top", "mounted/disk")];
    for (id, target) in disks {
        assert_eq!(server.post("/v1/acquire", &request(&scratch, id, target)).status, 200);
    }
    server.stop();

    let mut server = start("true");
    server.await_that("it has looked at both", |server| {
        server.log().matches("filesystem isn't mounted").count() == 2
    });
    for (id, target) in disks {
        assert_eq!(server.get(&format!("/v1/disks/{id}")).problem(404), "unknown-disk");
        let again = server.post("/v1/acquire", &request(&scratch, id, target));
        assert_eq!(again.problem(409), "id-taken");
        assert!(again.body.contains("isn't mounted"), "{again:?}");
    }
    assert_eq!(ids(&server, ""), ["below", "top"]);
    server.stop();

    let server = start(&mount);
    for (id, _) in disks {
        assert_eq!(server.get(&format!("/v1/disks/{id}")).status, 200, "{}", server.log());
        assert_eq!(delete(&server, &format!("/v1/disks/{id}")).status, 204);
    }
    assert_eq!(names(&elsewhere), ["folder"]);
    assert!(names(&elsewhere.join("folder")).is_empty());
    assert_eq!(records(&scratch).len(), 0);
    server.stop();
}
