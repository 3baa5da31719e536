//! The server and its service manager.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::manager::Manager;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

/// A server of one base image that has a service manager.
fn managed(scratch: &Path, set: impl FnOnce(&mut Command)) -> (Server, Manager) {
    server::one_base(scratch);
    let manager = Manager::new(scratch);
    let mut command = Server::command(scratch);
    command.args(server::one_base_args(scratch));
    manager.manage(&mut command);
    set(&mut command);
    (Server::launch(scratch, &mut command), manager)
}

#[apply(test)]
fn it_says_how_it_does(scratch: Scratch) {
    let (server, manager) = managed(&scratch, |_| {});
    let ready = "READY=1\nSTATUS=2 overlays of 1 base images are ready\n";
    assert_eq!(manager.next(), ready);
    // With that word the shelves are full.
    assert_eq!((server.ready(), server.get("/readyz").status), (2, 200));
    server.signal(Signal::HUP);
    let reloading = manager.next();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a reload");
    assert!(since.trim_end().parse::<u64>().is_ok_and(|since| since > 0), "{reloading}");
    assert_eq!(manager.next(), ready);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=finishing requests\n");
    assert!(server.wait().success());
    assert_eq!(manager.drain(), [] as [String; 0]);
}

#[apply(test)]
fn it_answers_the_watchdog_while_it_answers_clients(scratch: Scratch) {
    let (mut server, manager) =
        managed(&scratch, |command| _ = command.env("WATCHDOG_USEC", "200000"));
    assert!(manager.next().starts_with("READY=1\n"));
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    // Now whoever asks there waits for an answer without end, as of a server that hangs.
    let socket = server::socket(&scratch);
    std::fs::rename(&socket, scratch.join("elsewhere")).expect("it is moved");
    let _hanging = UnixListener::bind(&socket).expect("a socket");
    let complaints =
        |server: &Server| server.log().matches("the server doesn't answer itself").count();
    server.await_that("it notices", |server| complaints(server) > 0);
    manager.drain();
    let before = complaints(&server);
    server.await_that("it goes on asking", |server| complaints(server) > before + 2);
    assert_eq!(manager.drain(), [] as [String; 0]);
}

/// The watchdog isn't a client like others: it is heard when nobody else is.
#[apply(test)]
fn a_full_server_answers_the_watchdog(scratch: Scratch) {
    let (server, manager) = managed(&scratch, |command| {
        command.env("WATCHDOG_USEC", "200000").args(["--max-connections", "1"]);
    });
    assert!(manager.next().starts_with("READY=1\n"));
    let mut client = server.client();
    assert_eq!(client.get("/livez").expect("an answer").status, 200);
    assert_eq!(server.get("/livez").problem(503), "too-many-connections");
    manager.drain();
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
}

/// The watchdog of another process, as a parent's that only starts it.
#[apply(test)]
fn the_watchdog_of_another_is_left_alone(scratch: Scratch) {
    let (server, manager) = managed(&scratch, |command| {
        command.env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    });
    assert!(manager.next().starts_with("READY=1\n"));
    server.signal(Signal::HUP);
    assert!(manager.next().starts_with("RELOADING=1\n"), "and no word before");
}
