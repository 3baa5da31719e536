//! The socket's directory: others neither hold its lock nor have files changed elsewhere.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::harness::faults::strace;
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;
use crate::harness::server::{self, Server};

const GROUP: u32 = 64321;

fn launch(scratch: &Path) -> Server {
    server::one_base(scratch);
    let mut command = Server::command(scratch);
    command.args(server::one_base_args(scratch));
    Server::launch_at(scratch, scratch.join("run/pool.sock"), &mut command)
}

/// Whoever may read a directory may lock it, and keep the server from starting and from ending.
#[apply(test)]
fn a_lock_on_the_directory_is_in_nobodys_way(scratch: Scratch) {
    let run = scratch.join("run");
    std::fs::create_dir(&run).expect("a folder");
    let held = File::open(&run).expect("a directory");
    flock(&held, FlockOperation::LockExclusive).expect("a lock");
    for _ in 0..2 {
        let mut server = launch(&scratch);
        server.await_ready();
        server.stop();
        assert_eq!(std::fs::read_dir(&run).expect("a folder").count(), 0, "something is left");
    }
}

/// What stands in for the lock is refused.
#[apply(test)]
fn a_planted_lock_is_refused(scratch: Scratch) {
    let (run, precious) = (scratch.join("run"), scratch.join("precious"));
    std::fs::create_dir(&run).expect("a folder");
    std::fs::write(&precious, "precious").expect("a file");
    symlink(&precious, run.join("pool.sock.lock")).expect("a link");
    assert_eq!(launch(&scratch).wait().code(), Some(1));
    let log = std::fs::read_to_string(scratch.join("server.log")).expect("a log");
    assert!(log.contains("pool.sock"), "{log}");
    assert_eq!(std::fs::read(&precious).expect("a file"), b"precious");
}

#[apply(test)]
#[case::writable(0o777, false)]
#[needs(Root)]
#[case::of_another_user(0o755, true)]
fn a_directory_that_others_may_change_is_refused(
    scratch: Scratch,
    #[case] mode: u32,
    #[case] given_away: bool,
) {
    let run = scratch.join("run");
    std::fs::create_dir(&run).expect("a folder");
    std::fs::set_permissions(&run, Permissions::from_mode(mode)).expect("a mode");
    if given_away {
        chown(&run, Some(SOMEBODY), None).expect("given away");
    }
    assert_eq!(launch(&scratch).wait().code(), Some(1));
    let log = std::fs::read_to_string(scratch.join("server.log")).expect("a log");
    let why = if given_away { "belongs to another user" } else { "another user may change this" };
    assert!(log.contains(why), "{log}");
    assert_eq!(std::fs::read_dir(&run).expect("a folder").count(), 0);
}

/// A link takes the socket's place before its mode is set.
#[apply(test)]
#[needs(Strace, Root)]
fn no_change_of_mode_follows_a_link(scratch: Scratch) {
    server::one_base(&scratch);
    let (run, precious) = (scratch.join("run"), scratch.join("precious"));
    std::fs::create_dir(&run).expect("a folder");
    std::fs::write(&precious, "precious").expect("a file");
    std::fs::set_permissions(&precious, Permissions::from_mode(0o600)).expect("a mode");
    let calls = "chown,fchown,lchown,fchownat,chmod,fchmod,fchmodat";
    let mut command = strace::around(Path::new("/dev/null"));
    command.args(["-e", &format!("trace={calls}")]);
    command.args(["-e", &format!("inject={calls}:delay_enter=1s")]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool")).arg("serve");
    command.args(server::one_base_args(&scratch)).args(["--socket-group", &GROUP.to_string()]);
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let socket = run.join("pool.sock");
    let mut server = Server::launch_at(&scratch, socket.clone(), &mut command);
    server.await_that("the socket is made", |_| socket.exists());
    symlink(&precious, run.join("link")).expect("a link");
    std::fs::rename(run.join("link"), &socket).expect("in the socket's place");
    server.await_that("it went on or gave up", |_| {
        let log = std::fs::read_to_string(scratch.join("server.log")).unwrap_or_default();
        !log.is_empty()
    });
    let found = std::fs::metadata(&precious).expect("a file");
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o600, 0));
}
