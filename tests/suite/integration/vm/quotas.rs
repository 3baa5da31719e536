//! Who may have how many VMs, and whose they are.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::http::{Client, Response};
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::Server;
use crate::harness::somebody::as_somebody;
use crate::harness::vm_server::{self, execute};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

fn create() -> Value {
    json!({ "language": "python" })
}

/// A refusal that says when to try again.
#[track_caller]
fn assert_too_many(answer: &Response) {
    assert_eq!(answer.problem(503), "too-many-vms");
    let after: u64 = answer.header("retry-after").expect("a header").parse().expect("seconds");
    assert!(after > 0);
}

#[apply(test)]
async fn no_more_vms_than_there_may_be(scratch: Scratch) {
    let server = vm_server::start(&scratch, 1, &[]);
    let vm = server.post("/v1/vms", &create()).json();
    assert_too_many(&server.post("/v1/vms", &create()));
    let program = json!({ "language": "python", "code": "print('well')" });
    assert_too_many(&server.post("/v1/execute", &program));
    let path = format!("/v1/vms/{}", vm["id"].as_str().expect("an id"));
    assert_eq!(server.client().ask("DELETE", &path, None).expect("an answer").status, 204);
    assert_eq!(execute(&server, &program).printed(), "well\n");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Asks as another user.
#[track_caller]
fn as_other<T: Send + 'static>(
    scratch: &Scratch,
    ask: impl FnOnce(&mut Client) -> std::io::Result<T> + Send + 'static,
) -> T {
    as_somebody(scratch, &[], ask).expect("an answer")
}

/// A server that any user may ask.
#[track_caller]
fn open_to_all(scratch: &Scratch, vms: u32, args: &[&str]) -> Server {
    let server = vm_server::start(scratch, vms, args);
    std::fs::set_permissions(&**scratch, Permissions::from_mode(0o755)).expect("a folder for all");
    std::fs::set_permissions(server.socket(), Permissions::from_mode(0o666)).expect("a socket");
    server
}

/// Others don't hear of it, whatever they ask; who administrates the server sees all.
#[apply(test)]
#[needs(Root)]
async fn a_vm_belongs_to_its_user(scratch: Scratch) {
    let server = open_to_all(&scratch, 4, &[]);
    let ours = server.post("/v1/vms", &create()).json();
    let theirs = as_other(&scratch, |client| client.post("/v1/vms", &create())).json();
    assert_eq!((&ours["uid"], &theirs["uid"]), (&json!(0), &json!(SOMEBODY)));
    assert_eq!(server.get("/v1/vms").json().as_array().map(Vec::len), Some(2));
    let listed = as_other(&scratch, |client| client.get("/v1/vms")).json();
    assert_eq!(listed, json!([theirs]));

    let path = format!("/v1/vms/{}", ours["id"].as_str().expect("an id"));
    let asked = as_other(&scratch, move |client| {
        let run = client.post(&format!("{path}/execute"), &json!({ "code": "" }))?;
        Ok([client.get(&path)?, client.ask("DELETE", &path, None)?, run])
    });
    for answer in asked {
        assert_eq!(answer.problem(404), "unknown-vm");
    }
    let path = format!("/v1/vms/{}", theirs["id"].as_str().expect("an id"));
    assert_eq!(server.get(&path).json(), theirs);
    assert_eq!(server.client().ask("DELETE", &path, None).expect("an answer").status, 204);
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// One user can't have all of them.
#[apply(test)]
#[needs(Root)]
#[case::half(&[], 2)]
#[case::so_many(&["--vms-per-user", "1"], 1)]
async fn a_user_has_a_part_of_them(
    scratch: Scratch,
    #[case] args: &'static [&'static str],
    #[case] part: usize,
) {
    let server = open_to_all(&scratch, 4, args);
    let answers = as_other(&scratch, move |client| {
        (0..=part).map(|_| client.post("/v1/vms", &create())).collect::<std::io::Result<Vec<_>>>()
    });
    let (refused, created) = answers.split_last().expect("answers");
    assert!(created.iter().all(|answer| answer.status == 201), "{created:?}");
    assert_too_many(refused);
    let program = json!({ "language": "python", "code": "print('well')" });
    let refused = as_other(&scratch, move |client| client.post("/v1/execute", &program));
    assert_too_many(&refused);
    // Others have room.
    assert_eq!(server.post("/v1/vms", &create()).status, 201);
    server.stop();
    assert_no_vm_left(&scratch).await;
}
