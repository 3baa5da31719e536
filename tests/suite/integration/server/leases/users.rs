//! Whose a disk with an id is.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{delete, ids, killed_and_started_again, request};
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::{self, Server};
use crate::harness::somebody::as_somebody;
use crate::integration::server::{names, start};

/// A server that any user may ask.
#[track_caller]
fn open_to_all(scratch: &Scratch, more: &[&str]) -> Server {
    let server = start(scratch, more);
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
    let server = open_to_all(&scratch, &[]);
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

/// Root and the server's own user may have any number.
#[apply(test)]
#[needs(Root)]
fn another_user_has_so_many_disks_at_most(scratch: Scratch) {
    let more = ["--max-disks-per-user", "2"];
    let server = open_to_all(&scratch, &more);
    let acquire = |name: &'static str| {
        let wanted = request(&scratch, name, name);
        as_other(&scratch, move |client| client.post("/v1/acquire", &wanted))
    };
    assert_eq!((acquire("1").status, acquire("2").status), (200, 200));
    let refused = acquire("3");
    assert_eq!(refused.problem(403), "too-many-disks");
    assert!(refused.body.contains("--max-disks-per-user"), "{refused:?}");
    assert!(refused.body.contains("has 2 disks"), "{refused:?}");
    assert_eq!(acquire("2").status, 200, "it is there, and no further one");
    for name in ["4", "5", "6"] {
        assert_eq!(server.post("/v1/acquire", &request(&scratch, name, name)).status, 200);
    }
    // What fails takes no room, and what is gone gives it back.
    let wanted = request(&scratch, "7", "1");
    std::fs::remove_file(server::vms(&scratch).join("2")).expect("removed");
    assert_eq!(as_other(&scratch, |client| client.get("/v1/disks/2")).problem(404), "unknown-disk");
    let failed = as_other(&scratch, move |client| client.post("/v1/acquire", &wanted));
    assert_eq!(failed.problem(409), "already-exists");
    assert_eq!(
        (acquire("3").status, acquire("8").problem(403)),
        (200, "too-many-disks".to_owned())
    );
    // Also of those that an earlier server handed over.
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    let server = open_to_all(&scratch, &more);
    let mut server = server;
    server.await_that("they are read", |server| ids(server, "").len() == 5);
    assert_eq!(acquire("8").problem(403), "too-many-disks");
    let gone = as_other(&scratch, |client| client.ask("DELETE", "/v1/disks/3", None));
    assert_eq!(gone.status, 204);
    // Of many at once as many are had as there is room for.
    let at_once: Vec<u16> = std::thread::scope(|scope| {
        let names = ["a", "b", "c", "d"];
        let threads = names.map(|name| scope.spawn(move || acquire(name).status));
        threads.map(|thread| thread.join().expect("an answer")).into()
    });
    assert_eq!(at_once.iter().filter(|status| **status == 200).count(), 1, "{at_once:?}");
    server.stop();
}
