//! Other users of the machine.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[Need::Root];
const FRIENDS: u32 = 64321;

/// What another user gets at `/livez`, through an open directory: only the socket's own mode
/// is in the way.
fn as_other(directory: &Path, groups: &'static [u32]) -> io::Result<u16> {
    let open = File::open(directory)?;
    let socket = format!("/proc/self/fd/{}/pool.sock", open.as_raw_fd());
    let ask = move || {
        let gid = Gid::from_raw(SOMEBODY);
        let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        let uid = Uid::from_raw(SOMEBODY);
        set_thread_res_uid(uid, uid, uid)?;
        Client::connect(Path::new(&socket))?.get("/livez").map(|answer| answer.status)
    };
    std::thread::spawn(ask).join().expect("a thread")
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
    server::one_base(&scratch);
    let run = scratch.join("run");
    let mut command = Server::command(&scratch);
    command.args(server::one_base_args(&scratch));
    command.args(["--socket-group", &FRIENDS.to_string()]);
    // The directory is made for them too.
    let mut server = Server::launch_at(&scratch, run.join("pool.sock"), &mut command);
    server.await_ready();
    let mode = |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o7777;
    assert_eq!((mode(&run), mode(server.socket())), (0o750, 0o660));
    assert_eq!(as_other(&run, &[FRIENDS]).expect("an answer"), 200);
    assert!(refused(as_other(&run, &[])));
}
