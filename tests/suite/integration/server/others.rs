//! Other users of the machine.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::Server;
use crate::harness::somebody::{FRIENDS, as_somebody, served_to_friends};

const NEEDS: &[Need] = &[Need::Root];

/// What another user gets at `/livez`.
fn as_other(directory: &Path, groups: &'static [u32]) -> io::Result<u16> {
    as_somebody(directory, groups, |client| Ok(client.get("/livez")?.status))
}

fn refused(answer: io::Result<u16>) -> bool {
    answer.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[apply(test)]
fn they_are_refused(scratch: Scratch) {
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(&*scratch, open).expect("a folder for all");
    let server = Server::of_one_base(&scratch);
    assert!(refused(as_other(&scratch, &[])));
    // That it is the mode which refuses them:
    let all = Permissions::from_mode(0o666);
    std::fs::set_permissions(server.socket(), all).expect("a socket for all");
    assert_eq!(as_other(&scratch, &[]).expect("an answer"), 200);
    assert!(server.log().contains(&format!("uid {SOMEBODY} gid {SOMEBODY}")), "{}", server.log());
}

#[apply(test)]
fn those_of_the_group_are_let_in(scratch: Scratch) {
    let (server, run) = served_to_friends(&scratch, |_| {});
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o7777;
    assert_eq!((mode(&run), mode(server.socket())), (0o750, 0o660));
    assert_eq!(as_other(&run, &[FRIENDS]).expect("an answer"), 200);
    assert!(refused(as_other(&run, &[])));
}
