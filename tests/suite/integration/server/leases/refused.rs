//! What isn't handed over with an id, and what has none.

use std::sync::Barrier;

use serde_json::json;

use super::{delete, ids, records, request, target_of};
use crate::harness::cli;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};
use crate::integration::server::{figure, names};

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
    let fields = wanted.as_object_mut().expect("fields");
    let id = fields.remove("id").expect("an id");
    fields.insert("owner".to_owned(), id);
    let answer = server.post("/v1/acquire", &wanted);
    assert_eq!(answer.problem(422), "bad-request");
    assert!(answer.body.contains("give an id too"), "{answer:?}");
    for path in ["/v1/disks/%2E%2E", "/v1/disks/a%2Fb", "/v1/disks/a%20b?uid=0", "/v1/disks/a?b=c"]
    {
        assert_eq!(server.get(path).problem(400), "bad-request", "{path}");
        assert_eq!(delete(&server, path).problem(400), "bad-request", "{path}");
    }
    assert_eq!(server.get("/v1/disks?owner=a%2Fb").problem(400), "bad-request");
    for target in ["", "vm", "null"] {
        let path = format!("/v1/disks/vm?target={target}");
        assert_eq!(delete(&server, &path).problem(400), "bad-request", "{path}");
    }
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

/// Nobody's disk is replaced, and the other one is told so, whoever was there first.
#[apply(test)]
fn of_two_disks_at_one_place_there_is_one(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    for round in 0..20 {
        let together = Barrier::new(2);
        let mut answers = std::thread::scope(|scope| {
            let ask = |id: String| {
                let wanted = request(&scratch, &id, &format!("vm-{round}"));
                let (mut client, together) = (server.client(), &together);
                scope.spawn(move || {
                    together.wait();
                    client.post("/v1/acquire", &wanted).expect("an answer")
                })
            };
            ["a", "b"]
                .map(|one| ask(format!("{one}-{round}")))
                .map(|one| one.join().expect("its end"))
        });
        answers.sort_by_key(|answer| answer.status);
        assert_eq!(answers[0].status, 200, "{answers:?}");
        assert_eq!(answers[1].problem(409), "already-exists");
    }
    assert_eq!((ids(&server, "").len(), records(&scratch).len()), (20, 20));
    server.stop();
}

/// Also if that is seen only as the disk is put there.
#[apply(test)]
#[needs(MountNamespace)]
fn why_a_disk_cannot_be_put_there_is_told(scratch: Scratch) {
    server::one_base(&scratch);
    std::fs::create_dir(target_of(&scratch, "read-only")).expect("a folder");
    let mount =
        format!("mount -t tmpfs -o ro tmpfs '{}'", target_of(&scratch, "read-only").display());
    let mut command = cli::overlay_pool_after(&mount, &scratch);
    let mut server =
        Server::launch(&scratch, command.arg("serve").args(server::one_base_args(&scratch)));
    server.await_ready();
    let refused = server.post("/v1/acquire", &request(&scratch, "vm", "read-only/vm"));
    assert_eq!(refused.problem(403), "bad-target");
    assert!(refused.body.contains("Read-only file system"), "{refused:?}");
    assert_eq!((ids(&server, ""), records(&scratch)), (vec![], vec![]));
    server.stop();
}

/// Each of an owner's disks goes that can; the answer is why one can't.
#[apply(test)]
fn a_disk_that_stays_is_in_no_other_one_s_way(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    for id in ["1", "2", "3"] {
        std::fs::create_dir(target_of(&scratch, id)).expect("a folder");
        let mut wanted = request(&scratch, id, &format!("{id}/disk"));
        wanted["owner"] = json!("pods");
        assert_eq!(server.post("/v1/acquire", &wanted).status, 200);
    }
    std::fs::rename(target_of(&scratch, "1"), scratch.join("1")).expect("it is moved");
    std::os::unix::fs::symlink(scratch.join("1"), target_of(&scratch, "1")).expect("a link");
    let refused = delete(&server, "/v1/disks?owner=pods");
    assert_eq!(refused.problem(403), "forbidden");
    assert!(refused.body.contains("1/disk"), "{refused:?}");
    assert_eq!(ids(&server, ""), ["1"]);
    for gone in ["2", "3"] {
        assert_eq!(names(&target_of(&scratch, gone)), [] as [&str; 0]);
    }
    std::fs::remove_file(target_of(&scratch, "1")).expect("removed");
    std::fs::rename(scratch.join("1"), target_of(&scratch, "1")).expect("it is back");
    assert_eq!(delete(&server, "/v1/disks?owner=pods").json(), json!({ "removed": 1 }));
    server.stop();
}
