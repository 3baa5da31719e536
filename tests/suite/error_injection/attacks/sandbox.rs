//! What the kernel, a sandbox or a limit takes away is said in one clear line, or an error of one
//! request.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use serde_json::json;

use crate::harness::faults::descriptors;
use crate::harness::faults::strace::{self, Attached, is_wholly_traced};
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::scratch::names;
use crate::harness::server::{self, Server};

/// The program under strace, which has each call fail.
fn without(call: &str, errno: &str) -> Command {
    let mut command = strace::around(Path::new("/dev/null"));
    command.args(["-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:error={errno}")]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool"));
    command
}

/// Old kernels don't know `openat2`, and containers' sandboxes forbid it.
#[apply(test)]
#[needs(Strace)]
fn without_openat2_the_server_says_so(scratch: Scratch, #[values("ENOSYS", "EPERM")] errno: &str) {
    server::one_base(&scratch);
    let mut command = without("openat2", errno);
    command.arg("serve").args(server::one_base_args(&scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let server = Server::launch(&scratch, &mut command);
    assert_eq!(server.wait().code(), Some(1));
    let log = std::fs::read_to_string(scratch.join("server.log")).expect("a log");
    let line = log.lines().last().unwrap_or_default();
    assert!(line.contains("openat2") && line.contains("Linux 5.6"), "{log}");

    let mut command = without("openat2", errno);
    let doctor =
        command.arg("doctor").env("OVERLAY_POOL_DIR", &*scratch).output().expect("it runs");
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("openat2")).unwrap_or_default();
    assert!(line.starts_with("note") && line.contains("not supported"), "{said}");
}

/// Others that old kernels and sandboxes lack are done without.
#[apply(test)]
#[needs(Strace)]
#[case::renameat2("renameat2", "ENOSYS")]
#[case::statx("statx", "ENOSYS")]
fn without_others_all_goes_on(scratch: Scratch, #[case] call: &str, #[case] errno: &str) {
    server::one_base(&scratch);
    let mut command = without(call, errno);
    command.arg("serve").args(server::one_base_args(&scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    server.await_ready_overlays(2);
    for (target, status) in [("one", 200), ("two", 200), ("one", 409)] {
        let answer = server.acquire(&server::base(&scratch), &server::vms(&scratch).join(target));
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(status != 200 || answer.body.contains("\"pooled\""), "{answer:?}");
    }
    assert_eq!(names(&server::vms(&scratch)), ["one", "two"]);
    server.stop();
}

/// A limit of the size of files ends no server: an overlay over it can't be made.
#[apply(test)]
fn a7_a_limit_of_file_sizes_is_an_error(scratch: Scratch) {
    server::one_base(&scratch);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 128; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_overlay-pool")]);
    command.args(["serve", "--max-vms", "0", "--base"]).arg(server::base(&scratch));
    command.arg("--targets").arg(server::vms(&scratch));
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let target = server::vms(&scratch).join("vm");
    let answer = server.acquire(&server::base(&scratch), &target);
    assert_eq!(answer.problem(500), "create-failed", "{answer:?}");
    assert!(answer.body.contains("File too large"), "{answer:?}");
    assert!(!target.exists() && server.is_running());
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

/// A server that can open no more files says that it is busy.
#[apply(test)]
fn a7_no_descriptors_left_is_a_503(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let mut client = server.client();
    let mut targets = (0..).map(|number| server::vms(&scratch).join(number.to_string()));
    let mut acquire = |client: &mut Client| {
        let target = targets.next().expect("another");
        let request = json!({ "base": server::base(&scratch), "target": target });
        client.post("/v1/acquire", &request).expect("an answer")
    };
    assert_eq!(acquire(&mut client).status, 200);
    // What was open when it was counted may be closed by then.
    server.await_that("there are none", |server| {
        descriptors::limit(server.pid(), Some(0)).expect("a limit");
        let answer = acquire(&mut client);
        answer.status != 200 && ["bad-target", "bad-base"].contains(&&*answer.problem(503))
    });
    // The one in reserve is for who comes now.
    assert_eq!(server.get("/livez").status, 200);
    descriptors::limit(server.pid(), None).expect("no limit");
    assert_eq!(acquire(&mut client).status, 200);
}

/// Whether a disk is there isn't known then: its lease stays.
#[apply(test)]
fn c1_no_descriptors_left_forgets_no_disk(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let mut client = server.client();
    let target = server::vms(&scratch).join("disk");
    let request = json!({ "base": server::base(&scratch), "target": target, "id": "one" });
    assert_eq!(client.post("/v1/acquire", &request).expect("an answer").status, 200);
    let mut look = || client.ask("GET", "/v1/disks/one", None).expect("an answer");
    server.await_that("there are none", |server| {
        descriptors::limit(server.pid(), Some(0)).expect("a limit");
        let answer = look();
        answer.status != 200 && answer.problem(503) == "bad-target"
    });
    descriptors::limit(server.pid(), None).expect("no limit");
    assert_eq!(look().status, 200);
    assert_eq!(client.ask("DELETE", "/v1/disks/one", None).expect("an answer").status, 204);
    assert!(!target.exists());
}

/// Has the system refuse a call to all of a server's threads, once each or always.
fn refused_from_now_on(server: &mut Server, scratch: &Path, calls: &str, what: &str) -> Attached {
    let attached = Attached::to(server.pid(), &scratch.join("strace.log"), calls, what);
    server.await_that("it is traced", |server| is_wholly_traced(server.pid()));
    attached
}

/// A client that is gone before it is taken, and a moment without room for one, are no end.
#[apply(test)]
#[needs(Strace, Root)]
fn a_client_that_cannot_be_taken_now_is_no_end(
    scratch: Scratch,
    #[values("ECONNABORTED", "EMFILE", "ENOMEM")] errno: &str,
) {
    let mut server = Server::of_one_base(&scratch);
    let what = format!("error={errno}:when=1");
    let attached = refused_from_now_on(&mut server, &scratch, "accept4", &what);
    for _ in 0..3 {
        assert_eq!(server.get("/livez").status, 200);
    }
    let log = std::fs::read_to_string(scratch.join("strace.log")).expect("its log");
    assert!(log.contains("(INJECTED)"), "{log}");
    drop(attached);
    assert_eq!(server.log().contains("no room for another client"), errno != "ECONNABORTED");
    server.stop();
}

/// What doesn't pass by itself is told: else nobody would be taken any more, and nobody would know.
#[apply(test)]
#[needs(Strace, Root)]
fn a_socket_that_takes_nobody_ends_the_server(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let attached = refused_from_now_on(&mut server, &scratch, "accept4", "error=EINVAL");
    let _client = server.client();
    assert!(!server.wait().success());
    drop(attached);
}

/// What is renamed while a path is looked up is no reason to refuse it.
#[apply(test)]
#[needs(Strace, Root)]
fn a_lookup_that_met_a_rename_is_done_again(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let what = "error=EAGAIN:when=1..3";
    let attached = refused_from_now_on(&mut server, &scratch, "openat2", what);
    let target = server::vms(&scratch).join("vm");
    let answer = server.acquire(&server::base(&scratch), &target);
    assert_eq!(answer.status, 200, "{answer:?}");
    let log = std::fs::read_to_string(scratch.join("strace.log")).expect("its log");
    assert_eq!(log.matches("(INJECTED)").count(), 3, "{log}");
    drop(attached);
    server.stop();
}

/// A request waits for the threads that there are; if there is none, and can be none, it is refused.
#[apply(test)]
#[needs(Strace, Root)]
fn without_another_thread_a_request_waits_or_is_refused(scratch: Scratch) {
    let mut server = Server::of_one_base(&scratch);
    let threads = |server: &Server| {
        let folder = format!("/proc/{}/task", server.pid().as_raw_nonzero());
        let tasks = std::fs::read_dir(folder).expect("its threads").flatten();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("overlay-pool-re")).count()
    };
    let refuse =
        |server: &mut Server| refused_from_now_on(server, &scratch, "clone,clone3", "error=EAGAIN");
    server.await_that("its threads have ended", |server| threads(server) == 0);
    let attached = refuse(&mut server);
    assert_eq!(server.get("/v1/bases").problem(503), "no-threads");
    drop(attached);
    assert_eq!(server.get("/v1/bases").status, 200);
    let attached = refuse(&mut server);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = server.client();
                for _ in 0..50 {
                    assert_eq!(client.get("/v1/bases").expect("an answer").status, 200);
                }
            });
        }
    });
    assert!(threads(&server) > 0, "the one that was there is still there");
    drop(attached);
    server.stop();
}
