//! Disks that are acquired with an id.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{figure, names, start};
use crate::harness::http::{Client, Response};
use crate::harness::pool_process::is_whole;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::qemu;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::{self, Server};
use crate::harness::somebody::as_somebody;

/// A request for a disk at a target of this name.
fn request(scratch: &Path, id: &str, target: &str) -> Value {
    json!({ "base": server::base(scratch), "target": target_of(scratch, target), "id": id })
}

fn target_of(scratch: &Path, name: &str) -> PathBuf {
    server::vms(scratch).join(name)
}

fn delete(server: &Server, path: &str) -> Response {
    server.client().ask("DELETE", path, None).expect("an answer")
}

/// The ids of all disks that the client may know of.
#[track_caller]
fn ids(server: &Server, query: &str) -> Vec<String> {
    let disks = server.get(&format!("/v1/disks{query}")).json();
    let id = |disk: &Value| disk["id"].as_str().expect("an id").to_owned();
    disks.as_array().expect("a list").iter().map(id).collect()
}

/// How many overlays the pool handed over.
#[track_caller]
fn handed_over(server: &Server) -> u64 {
    let stats = server.get("/v1/stats").json();
    figure(&stats, "pooled") + figure(&stats, "on_demand")
}

/// Kills a server and starts the next one.
#[track_caller]
fn killed_and_started_again(server: Server, scratch: &Path) -> Server {
    server.signal(Signal::KILL);
    assert!(!server.wait().success());
    Server::start(scratch, server::one_base_args(scratch))
}

/// The files that the server keeps of disks.
fn records(scratch: &Path) -> Vec<String> {
    names(&scratch.join("pool/leases"))
}

#[apply(test)]
fn the_same_request_gives_the_same_answer(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let target = target_of(&scratch, "vm");
    let wanted = request(&scratch, "vm-1", "vm");
    let first = server.post("/v1/acquire", &wanted);
    assert_eq!((first.status, &first.json()["source"]), (200, &json!("pooled")), "{first:?}");
    std::fs::write(&target, "written by its guest").expect("the disk");
    assert_eq!(server.post("/v1/acquire", &wanted).json(), first.json());
    assert_eq!(handed_over(&server), 1);

    let server = killed_and_started_again(server, &scratch);
    assert_eq!(server.post("/v1/acquire", &wanted).json(), first.json());
    assert_eq!(handed_over(&server), 0);
    let disk = server.get("/v1/disks/vm-1").json();
    let expected = json!({
        "id": "vm-1", "uid": rustix::process::geteuid().as_raw(), "source": "pooled",
        "base": server::base(&scratch), "target": target,
    });
    assert_eq!((&disk, &server.get("/v1/disks").json()), (&expected, &json!([expected])));
    assert_eq!(std::fs::read(&target).expect("the disk"), b"written by its guest");

    for _ in 0..2 {
        assert_eq!(delete(&server, "/v1/disks/vm-1").status, 204);
        assert_eq!((names(&server::vms(&scratch)), records(&scratch)), (vec![], vec![]));
        assert_eq!(server.get("/v1/disks/vm-1").problem(404), "unknown-disk");
    }
    let again = server.post("/v1/acquire", &wanted);
    assert!(again.status == 200 && target.exists(), "a disk that is gone can be had again");
    server.stop();
    assert!(target.exists() && records(&scratch).len() == 1, "it outlives the server");
}

#[apply(test)]
fn requests_at_the_same_time_get_one_disk(scratch: Scratch) {
    const CLIENTS: usize = 16;
    let server = Server::of_one_base(&scratch);
    for round in 0..10 {
        let wanted = request(&scratch, &format!("vm-{round}"), &format!("vm-{round}"));
        let together = Barrier::new(CLIENTS);
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                let mut client = server.client();
                together.wait();
                client.post("/v1/acquire", &wanted).expect("an answer")
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().map(|client| client.join().expect("its end")).collect()
        });
        assert_eq!(answers[0].status, 200, "{:?}", answers[0]);
        assert!(answers.iter().all(|answer| answer.body == answers[0].body), "{answers:?}");
        assert_eq!(handed_over(&server), round + 1);
    }
    assert_eq!(records(&scratch).len(), 10);
    server.stop();
}

#[apply(test)]
#[case::target(json!({ "target": "/elsewhere" }))]
#[case::base(json!({ "base": "/other.qcow2" }))]
#[case::format(json!({ "format": "raw" }))]
#[case::size(json!({ "virtual_size": 2 << 20 }))]
#[case::owner(json!({ "owner": "ci" }))]
fn another_request_with_the_id_is_refused(scratch: Scratch, #[case] change: Value) {
    let server = Server::of_one_base(&scratch);
    let wanted = request(&scratch, "vm-1", "vm");
    let first = server.post("/v1/acquire", &wanted).json();
    let mut other = wanted.clone();
    for (field, value) in change.as_object().expect("fields") {
        other[field] = value.clone();
    }
    let refused = server.post("/v1/acquire", &other);
    assert_eq!(refused.problem(409), "id-taken");
    let detail = refused.json()["detail"].as_str().expect("a detail").to_owned();
    assert!(detail.contains("vm-1") && detail.contains("/vms/vm"), "{detail}");
    assert_eq!((handed_over(&server), names(&server::vms(&scratch)).len()), (1, 1));
    assert_eq!(server.post("/v1/acquire", &wanted).json(), first);
    server.stop();
}

/// What takes a disk's place is left alone: by a removal, by the same request, and by the next
/// server.
#[apply(test)]
#[case::running(false)]
#[case::restarted(true)]
fn a_stranger_s_file_is_left(scratch: Scratch, #[case] restarts: bool) {
    let mut server = Server::of_one_base(&scratch);
    for name in ["removed", "asked", "looked"] {
        assert_eq!(server.post("/v1/acquire", &request(&scratch, name, name)).status, 200);
        // The next file may get the number of this one.
        std::fs::remove_file(target_of(&scratch, name)).expect("removed");
        std::fs::write(target_of(&scratch, name), name).expect("a file");
    }
    if restarts {
        server = killed_and_started_again(server, &scratch);
        server.await_that("they are forgotten", |server| ids(server, "").is_empty());
        assert_eq!(records(&scratch), [] as [&str; 0]);
    }
    assert_eq!(delete(&server, "/v1/disks/removed").status, 204);
    let asked = server.post("/v1/acquire", &request(&scratch, "asked", "asked"));
    assert_eq!(asked.problem(409), "already-exists");
    assert_eq!(server.get("/v1/disks/looked").problem(404), "unknown-disk");
    for name in ["removed", "asked", "looked"] {
        let left = std::fs::read(target_of(&scratch, name)).expect("the file");
        assert_eq!(left, name.as_bytes());
    }
    assert_eq!((ids(&server, ""), records(&scratch)), (vec![], vec![]));
    server.stop();
}

/// A file that is made right after another one has the same number on ext4.
#[apply(test)]
fn a_file_with_the_disk_s_number_is_another(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let target = target_of(&scratch, "vm");
    let number = || std::fs::metadata(&target).expect("a file").ino();
    for round in 0..50 {
        assert_eq!(server.post("/v1/acquire", &request(&scratch, "vm", "vm")).status, 200);
        let disk = number();
        std::fs::remove_file(&target).expect("removed");
        std::fs::write(&target, "a stranger's").expect("a file");
        let same = number() == disk;
        assert_eq!(delete(&server, "/v1/disks/vm").status, 204);
        assert!(target.exists(), "round {round}");
        std::fs::remove_file(&target).expect("removed");
        if same {
            return server.stop();
        }
    }
    println!("no number came again");
}

/// Its user may remove a disk by its path, as ever.
#[apply(test)]
fn a_disk_that_is_gone_is_made_again(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let base = server::base(&scratch);
    for folder in ["a", "b"] {
        std::fs::create_dir(target_of(&scratch, folder)).expect("a folder");
    }
    for (count, target) in ["a/vm", "a/vm", "b/vm"].into_iter().enumerate() {
        // Also at another target, as the one before is no more.
        let answer = server.post("/v1/acquire", &request(&scratch, "vm", target));
        assert_eq!(answer.status, 200, "{answer:?}");
        let target = target_of(&scratch, target);
        assert!(is_whole(&std::fs::read(&target).expect("a disk"), &base, None));
        assert_eq!((handed_over(&server), records(&scratch).len()), (count as u64 + 1, 1));
        std::fs::remove_dir_all(target.parent().expect("its folder")).expect("removed");
        std::fs::create_dir(target.parent().expect("its folder")).expect("a folder");
    }
    server.stop();
}

#[apply(test)]
fn disks_are_listed_and_removed_by_their_owner(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    for (id, owner) in [("c", "ci"), ("a", "ci"), ("b", "other"), ("d", "")] {
        let mut wanted = request(&scratch, id, id);
        if !owner.is_empty() {
            wanted["owner"] = json!(owner);
        }
        assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    }
    assert_eq!(server.acquire(&server::base(&scratch), &target_of(&scratch, "e")).status, 200);
    assert_eq!(ids(&server, ""), ["a", "b", "c", "d"]);
    assert_eq!(ids(&server, "?owner=ci"), ["a", "c"]);
    assert_eq!(server.get("/v1/disks/a").json()["owner"], "ci");
    let bases = server.get("/v1/bases").json();
    assert_eq!(bases[0]["leases"], 4);
    let leased = |server: &Server, count| {
        server.get("/metrics").body.contains(&format!("\noverlay_pool_disks_leased {count}\n"))
    };
    assert!(leased(&server, 4));

    let server = killed_and_started_again(server, &scratch);
    for removed in [2, 0] {
        let answer = delete(&server, "/v1/disks?owner=ci");
        assert_eq!((answer.status, answer.json()), (200, json!({ "removed": removed })));
        assert_eq!(names(&server::vms(&scratch)), ["b", "d", "e"]);
        assert_eq!(ids(&server, ""), ["b", "d"]);
    }
    assert!(leased(&server, 2));
    assert_eq!(delete(&server, "/v1/disks").problem(400), "bad-request");
    server.stop();
}

/// The server keeps nothing of a disk without an id, and doesn't remove it.
#[apply(test)]
fn c1_a_disk_without_an_id_is_its_caller_s(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    assert_eq!(server.acquire(&server::base(&scratch), &target_of(&scratch, "vm")).status, 200);
    assert_eq!((ids(&server, ""), server.get("/v1/disks/vm").status), (vec![], 404));
    assert_eq!(delete(&server, "/v1/disks/vm").status, 204);
    assert_eq!(names(&server::vms(&scratch)), ["vm"]);
    server.stop();
    assert!(!scratch.join("pool").exists(), "nothing is left");
}

#[apply(test)]
fn what_cannot_be_an_id_is_refused(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    for id in ["", "..", "a/b", "a b", "ä", &"a".repeat(129)] {
        let answer = server.post("/v1/acquire", &request(&scratch, id, "vm"));
        assert_eq!(answer.problem(422), "bad-request", "{id}");
        let mut wanted = request(&scratch, "vm", "vm");
        wanted["owner"] = json!(id);
        assert_eq!(server.post("/v1/acquire", &wanted).problem(422), "bad-request", "{id}");
    }
    let mut wanted = request(&scratch, "vm", "vm");
    wanted["owner"] = wanted["id"].take();
    let answer = server.post("/v1/acquire", &wanted);
    assert_eq!(answer.problem(422), "bad-request");
    assert!(answer.body.contains("give an id too"), "{answer:?}");
    for path in ["/v1/disks/%2E%2E", "/v1/disks/a%2Fb", "/v1/disks/a%20b?uid=0", "/v1/disks/a?b=c"]
    {
        assert_eq!(server.get(path).problem(400), "bad-request", "{path}");
        assert_eq!(delete(&server, path).problem(400), "bad-request", "{path}");
    }
    assert_eq!(server.get("/v1/disks?owner=a%2Fb").problem(400), "bad-request");
    assert_eq!(names(&server::vms(&scratch)), [] as [&str; 0]);
    server.stop();
}

/// What a request without an id meets, one with an id meets too.
#[apply(test)]
fn a_request_that_fails_leaves_nothing(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    std::fs::write(target_of(&scratch, "taken"), "precious").expect("a file");
    let in_pool = format!("pool-{:032x}", 7);
    std::fs::create_dir(target_of(&scratch, &in_pool)).expect("a folder");
    let base = server::base(&scratch);
    let cases = [
        (json!({ "target": target_of(&scratch, "taken") }), 409, "already-exists"),
        (json!({ "target": target_of(&scratch, "taken"), "base": "/none" }), 409, "already-exists"),
        (json!({ "target": target_of(&scratch, "none/vm") }), 404, "bad-target"),
        (json!({ "target": scratch.join("vm") }), 403, "forbidden"),
        (json!({ "target": target_of(&scratch, &format!("{in_pool}/vm")) }), 422, "bad-target"),
        (json!({ "target": target_of(&scratch, &"n".repeat(300)) }), 422, "bad-target"),
        (json!({ "target": "vm" }), 400, "bad-request"),
        (json!({ "base": "/none.qcow2" }), 403, "forbidden"),
        (json!({ "base": base, "virtual_size": 1 }), 422, "bad-base"),
    ];
    for (change, status, error) in cases {
        let mut wanted = request(&scratch, "vm", "vm");
        for (field, value) in change.as_object().expect("fields") {
            wanted[field] = value.clone();
        }
        assert_eq!(server.post("/v1/acquire", &wanted).problem(status), error, "{change}");
    }
    assert_eq!((ids(&server, ""), records(&scratch)), (vec![], vec![]));
    assert_eq!(names(&server::vms(&scratch)), [in_pool.as_str(), "taken"]);
    let stats = server.get("/v1/stats").json();
    assert_eq!((figure(&stats, "discarded"), figure(&stats, "pooled")), (0, 0), "none was wasted");
    assert!(figure(&stats, "failed") >= 4, "{stats}");
    server.await_ready_overlays(2);
    assert_eq!(server.post("/v1/acquire", &request(&scratch, "vm", "vm")).status, 200);
    server.stop();
}

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
    std::os::unix::fs::symlink("leases", scratch.join("pool/link")).expect("a link");
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
    // What is no record is left, and what was one is gone.
    std::fs::remove_dir_all(scratch.join("pool/leases")).expect("removed");
    let refused = server.post("/v1/acquire", &request(&scratch, "vm-2", "vm-2"));
    assert_eq!(refused.problem(500), "no-leases");
    assert_eq!(names(&server::vms(&scratch)), ["vm"]);
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

/// A server that any user may ask.
#[track_caller]
fn open_to_all(scratch: &Scratch) -> Server {
    let server = Server::of_one_base(scratch);
    std::fs::set_permissions(&**scratch, Permissions::from_mode(0o755)).expect("a folder for all");
    std::fs::set_permissions(server.socket(), Permissions::from_mode(0o666)).expect("a socket");
    server
}

/// Asks as another user.
#[track_caller]
fn as_other<T: Send + 'static>(
    scratch: &Scratch,
    ask: impl FnOnce(&mut Client) -> io::Result<T> + Send + 'static,
) -> T {
    as_somebody(scratch, &[], ask).expect("an answer")
}

/// An id is its user's: another's is another, and nobody hears of it but root and the server's own
/// user.
#[apply(test)]
#[needs(Root)]
fn a_disk_is_its_user_s(scratch: Scratch) {
    let server = open_to_all(&scratch);
    let own = request(&scratch, "vm", "own");
    let theirs = request(&scratch, "vm", "theirs");
    assert_eq!(server.post("/v1/acquire", &own).status, 200);
    let other = as_other(&scratch, move |client| client.post("/v1/acquire", &theirs));
    assert_eq!(other.status, 200, "the same id of another user's is another: {other:?}");

    let listed = as_other(&scratch, |client| client.get("/v1/disks")).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed[0]["uid"], &listed[0]["id"]), (&json!(SOMEBODY), &json!("vm")));
    assert_eq!(server.get("/v1/disks").json().as_array().map(Vec::len), Some(2));
    assert_eq!(server.get("/v1/disks?uid=0").json().as_array().map(Vec::len), Some(1));
    let hidden = as_other(&scratch, |client| client.get("/v1/disks?uid=0")).json();
    assert_eq!(hidden, json!([]));

    assert_eq!(server.post("/v1/acquire", &request(&scratch, "2", "2")).status, 200);
    let unknown = as_other(&scratch, |client| client.get("/v1/disks/2"));
    assert_eq!(unknown.problem(404), "unknown-disk");
    for path in ["/v1/disks/2?uid=0", "/v1/disks?owner=ci&uid=0"] {
        let denied = as_other(&scratch, |client| client.ask("DELETE", path, None));
        assert_eq!(denied.problem(403), "forbidden", "{path}");
    }
    for id in ["2", "vm"] {
        let path = format!("/v1/disks/{id}");
        let gone = as_other(&scratch, move |client| client.ask("DELETE", &path, None));
        assert_eq!(gone.status, 204, "theirs, if there is one");
    }
    assert_eq!(names(&server::vms(&scratch)), ["2", "own"]);

    let theirs = request(&scratch, "vm", "theirs");
    assert_eq!(as_other(&scratch, move |client| client.post("/v1/acquire", &theirs)).status, 200);
    let mut server = killed_and_started_again(server, &scratch);
    server.await_that("they are read", |server| ids(server, "").len() == 3);
    assert_eq!(delete(&server, &format!("/v1/disks/vm?uid={SOMEBODY}")).status, 204);
    assert_eq!(names(&server::vms(&scratch)), ["2", "own"]);
    server.stop();
}

/// The base image of a disk that is there needn't be.
#[apply(test)]
fn the_answer_outlives_its_base_image(scratch: Scratch) {
    server::one_base(&scratch);
    let other = scratch.join("images/other-base-1.qcow2");
    std::fs::create_dir(scratch.join("images")).expect("a folder");
    Image::new(1 << 20).write(&other);
    let images = scratch.join("images");
    let server = start(&scratch, &["--images", images.to_str().expect("a plain path")]);
    let mut wanted = request(&scratch, "vm", "vm");
    wanted["base"] = json!(other);
    let first = server.post("/v1/acquire", &wanted);
    assert_eq!(first.status, 200, "{first:?}");
    std::fs::remove_file(&other).expect("removed");
    assert_eq!(server.post("/v1/acquire", &wanted).json(), first.json());
    server.stop();
}
