//! Disks that are acquired with an id.

mod client;
mod places;
mod refused;
mod users;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{figure, names, start};
use crate::harness::http::Response;
use crate::harness::pool_process::is_whole;
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;
use crate::harness::scratch::record_names;
use crate::harness::server::{self, Server};

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
    record_names(&scratch.join("pool/leases"))
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
