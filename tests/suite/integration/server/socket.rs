//! The socket: who makes it, who may have it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{is_closed, under_way};
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

fn launch(scratch: &Path) -> Server {
    Server::launch(scratch, Server::command(scratch).args(server::one_base_args(scratch)))
}

#[apply(test)]
fn it_and_its_directory_are_for_this_user_alone(scratch: Scratch) {
    server::one_base(&scratch);
    let socket = scratch.join("run/deep/pool.sock");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_overlay-pool")]);
    command.arg("serve").args(server::one_base_args(&scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch_at(&scratch, socket.clone(), &mut command);
    server.await_ready();
    assert_eq!((mode(&socket), mode(&scratch.join("run/deep"))), (0o600, 0o700));
    assert_eq!(mode(&scratch.join("run")), 0o700);
    server.stop();
    assert!(!socket.exists());
}

#[apply(test)]
fn a_second_server_is_refused_and_the_first_unharmed(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let second = launch(&scratch);
    assert_eq!(second.wait().code(), Some(1));
    assert!(server.log().contains("another server listens there"), "{}", server.log());
    assert_eq!(server.ready(), 2);
    server.stop();
}

#[apply(test)]
fn of_many_at_once_one_has_it(scratch: Scratch, #[values(true, false)] stale: bool) {
    server::one_base(&scratch);
    if stale {
        drop(UnixListener::bind(server::socket(&scratch)).expect("a socket"));
    }
    let mut servers: Vec<_> = (0..6).map(|_| launch(&scratch)).collect();
    let deadline = Instant::now() + PATIENCE;
    while servers.len() > 1 && Instant::now() < deadline {
        servers.retain_mut(Server::is_running);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(servers.len(), 1, "one of them, and not more");
    let mut server = servers.remove(0);
    server.await_ready();
    assert_eq!(server.log().matches("another server listens there").count(), 5);
    server.stop();
    assert!(!server::socket(&scratch).exists());
}

#[apply(test)]
fn what_a_dead_server_left_is_replaced(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    server.signal(Signal::KILL);
    server.wait();
    assert!(server::socket(&scratch).exists());
    Server::of_one_base(&scratch).stop();
    assert!(!server::socket(&scratch).exists());
}

/// Puts something at a path, and holds it open.
type Put = fn(&Path) -> io::Result<Option<OwnedFd>>;

fn put_file(path: &Path) -> io::Result<Option<OwnedFd>> {
    std::fs::write(path, "precious").map(|()| None)
}

fn put_directory(path: &Path) -> io::Result<Option<OwnedFd>> {
    std::fs::create_dir(path).map(|()| None)
}

fn put_link(path: &Path) -> io::Result<Option<OwnedFd>> {
    std::os::unix::fs::symlink("nowhere", path).map(|()| None)
}

fn put_listener(path: &Path) -> io::Result<Option<OwnedFd>> {
    UnixListener::bind(path).map(|listener| Some(listener.into()))
}

fn put_datagrams(path: &Path) -> io::Result<Option<OwnedFd>> {
    UnixDatagram::bind(path).map(|socket| Some(socket.into()))
}

#[apply(test)]
#[case::file("something else is there", put_file)]
#[case::directory("something else is there", put_directory)]
#[case::link("something else is there", put_link)]
#[case::other_program("another server listens there", put_listener)]
#[case::datagrams("another server listens there", put_datagrams)]
fn what_is_not_a_dead_socket_stays(scratch: Scratch, #[case] reason: &str, #[case] put: Put) {
    server::one_base(&scratch);
    let socket = server::socket(&scratch);
    let _open = put(&socket).expect("it is there");
    let identity = || std::fs::symlink_metadata(&socket).expect("it is there").ino();
    let before = identity();
    let server = launch(&scratch);
    let log = scratch.join("server.log");
    assert_eq!(server.wait().code(), Some(1));
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains(reason), "{log}");
    assert_eq!(identity(), before);
    assert!(!scratch.join("pool").exists());
}

/// A new server begins while the old one still finishes requests.
#[apply(test)]
fn the_old_server_leaves_the_new_one_s(scratch: Scratch) {
    let mut old = Server::of_one_base(&scratch);
    let (base, target) = (server::base(&scratch), server::vms(&scratch).join("vm.qcow2"));
    let mut client = old.client();
    let rest = under_way(&mut client, &base, &target);
    old.signal(Signal::TERM);
    old.await_that("no more clients", |server| is_closed(server.socket()));
    let new = Server::of_one_base(&scratch);
    client.send(rest.as_bytes()).expect("the rest");
    assert_eq!(client.answer().expect("an answer").status, 200);
    assert!(old.wait().success());
    assert_eq!(new.get("/readyz").status, 200);
    assert_eq!(new.ready(), 2);
    new.stop();
    assert!(target.exists() && !server::socket(&scratch).exists());
}
