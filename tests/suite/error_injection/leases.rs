//! Disks with an id: the server is killed, or what it asks of the filesystem fails, at any moment of
//! an acquire or a removal.
//!
//! `OVERLAY_POOL_CHAOS_ROUNDS` sets how often it is killed at random, `OVERLAY_POOL_SEED` the moments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::ground::{Ground, LARGER, kill};
use crate::harness::faults::strace::{Attached, is_wholly_traced};
use crate::harness::http::{Client, Response};
use crate::harness::pool_process::directories;
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};
use crate::harness::scratch::{names, record_names};
use crate::harness::server::Server;

const CLIENTS: usize = 6;
/// How many disks each client has.
const DISKS: usize = 8;

/// What is known of a disk, by its id: what was answered if it is there, none if it isn't.
type Disks = BTreeMap<String, Option<Value>>;

/// The user of some disks, who knows of each what was answered last, and what he has begun.
struct User {
    disks: Disks,
    /// What wasn't answered, to be done again: to have it or not.
    begun: Option<(String, bool)>,
}

impl User {
    fn new(number: usize) -> Self {
        let name = |disk: usize| {
            let kind = if disk % 4 == 3 { LARGER.0 } else { "plain" };
            format!("{kind}-{number}-{disk}")
        };
        Self { disks: (0..DISKS).map(|disk| (name(disk), None)).collect(), begun: None }
    }

    /// Has disks made, asked for again and removed, until the server is gone or all is done.
    fn ask(&mut self, socket: &Path, ground: &Ground, mut random: StdRng) {
        let Ok(mut client) = Client::connect(socket) else { return };
        let ids: Vec<_> = self.disks.keys().cloned().collect();
        for id in ids.iter().chain(&ids) {
            let wanted = random.random_bool(0.7);
            self.begun = Some((id.clone(), wanted));
            if self.finish(&mut client, ground).is_err() {
                return;
            }
        }
    }

    /// Does what was begun, perhaps once more.
    #[track_caller]
    fn finish(&mut self, client: &mut Client, ground: &Ground) -> std::io::Result<()> {
        let Some((id, wanted)) = self.begun.clone() else { return Ok(()) };
        let known = self.disks.get_mut(&id).expect("one of them");
        if wanted {
            let answer = client.post("/v1/acquire", &request(ground, &id))?;
            assert_eq!(answer.status, 200, "{answer:?}");
            let answer = answer.json();
            if let Some(before) = known {
                assert_eq!(*before, answer, "{id}: the same answer");
            }
            *known = Some(answer);
        } else {
            let answer = client.ask("DELETE", &format!("/v1/disks/{id}"), None)?;
            assert_eq!(answer.status, 204, "{answer:?}");
            *known = None;
        }
        self.begun = None;
        Ok(())
    }
}

fn request(ground: &Ground, id: &str) -> Value {
    let size = id.starts_with(LARGER.0).then_some(LARGER.1);
    let (base, target) = (&ground.one, ground.target(id));
    json!({ "base": base, "target": target, "virtual_size": size, "id": id, "owner": "chaos" })
}

/// The disks that are known are there, whole, each once, and nothing else is; so the server says too.
#[track_caller]
fn expect_disks(server: &Server, ground: &Ground, known: &BTreeSet<String>) {
    let listed = server.get("/v1/disks?owner=chaos").json();
    let id = |disk: &Value| disk["id"].as_str().expect("an id").to_owned();
    let listed: BTreeSet<_> = listed.as_array().expect("a list").iter().map(id).collect();
    assert_eq!(listed, *known);
    let there: BTreeSet<_> = ground.overlays().expect("sound overlays").into_iter().collect();
    assert_eq!(there, *known);
    let uid = rustix::process::geteuid().as_raw();
    let records: Vec<_> = known.iter().map(|id| format!("{uid}-{id}")).collect();
    assert_eq!(record_names(&ground.folder.join("pool/leases")), records);
}

/// Whatever was begun is finished with the next server: then no disk is lost, none is there twice,
/// and none is left when all were removed.
#[apply(test)]
fn c1_disks_of_a_server_killed_at_random(#[from(scratch_in_memory)] scratch: Scratch) {
    let rounds = number("OVERLAY_POOL_CHAOS_ROUNDS").unwrap_or(50);
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_CHAOS_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let ground = Ground::new(&scratch);
    let mut users: Vec<_> = (0..CLIENTS).map(User::new).collect();
    let (mut lasts, mut unanswered) = (Duration::ZERO, 0);
    for round in 0..=rounds {
        let server = ground.start(&[&ground.one]);
        let begin = Instant::now();
        let socket = server.socket();
        std::thread::scope(|scope| {
            for user in &mut users {
                let (random, ground) = (StdRng::seed_from_u64(random.random()), &ground);
                scope.spawn(move || user.ask(socket, ground, random));
            }
            // How long it takes when nobody is killed: so the moments are spread over all of it.
            if round > 0 {
                std::thread::sleep(random.random_range(Duration::ZERO..=lasts));
                server.signal(Signal::KILL);
            }
        });
        if round == 0 {
            lasts = begin.elapsed();
            assert!(users.iter().all(|user| user.begun.is_none()), "all was answered");
            server.signal(Signal::KILL);
        }
        assert!(!server.wait().success());
        unanswered += users.iter().filter(|user| user.begun.is_some()).count();

        let server = ground.start(&[&ground.one]);
        for user in &mut users {
            user.finish(&mut server.client(), &ground).expect("an answer");
        }
        let there = |user: &User| {
            let there = user.disks.iter().filter(|(_, answer)| answer.is_some());
            there.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        };
        let known = users.iter().flat_map(there).collect();
        expect_disks(&server, &ground, &known);
        kill(server);
    }
    println!("{unanswered} requests without an answer, in {rounds} rounds");
    assert!(unanswered > 0, "nothing was ever under way");
    let server = ground.start(&[&ground.one]);
    let removed = server.client().ask("DELETE", "/v1/disks?owner=chaos", None).expect("an answer");
    assert_eq!(removed.status, 200, "{removed:?}");
    expect_disks(&server, &ground, &BTreeSet::new());
    server.stop();
    assert!(directories(&ground.folder).is_empty());
}

fn log(ground: &Ground, name: &str) -> PathBuf {
    ground.folder.join(format!("strace-{name}.log"))
}

/// A server whose next acquire with an id, or removal, is done by one thread, in which calls are
/// counted from now on; with strace on it.
#[track_caller]
fn traced(ground: &Ground, name: &str, faults: &[(&str, &str)]) -> (Server, Attached) {
    let mut server = ground.start(&[&ground.one]);
    server.await_ready_overlays(4);
    // It reads what it knows of disks, and has a thread.
    assert_eq!(server.get("/v1/disks").status, 200);
    let attached = Attached::to_each(server.pid(), &log(ground, name), faults);
    server.await_that("it is traced", |server| is_wholly_traced(server.pid()));
    (server, attached)
}

/// The calls by which an acquire, and then a removal, changes something, or decides on it: which,
/// and how many of them there are at most.
const CALLS: [(&str, usize); 6] =
    [("renameat2", 3), ("linkat", 2), ("unlinkat", 3), ("write", 2), ("statx", 4), ("openat", 4)];

fn ask(server: &Server, ground: &Ground, removes: bool) -> std::io::Result<Response> {
    let mut client = server.client();
    if removes {
        return client.ask("DELETE", "/v1/disks/vm", None);
    }
    client.post("/v1/acquire", &request(ground, "vm"))
}

/// Asks with a fault at each call in turn. After it, the same request does what it shall.
fn for_each_call(
    scratch: &Path,
    fault: &str,
    removes: bool,
    check: impl Fn(Server, std::io::Result<Response>, &Ground, &str) -> (Server, bool),
) {
    let ground = Ground::new(scratch);
    let expected: BTreeSet<_> = (!removes).then(|| "vm".to_owned()).into_iter().collect();
    let mut made = Vec::new();
    // By writes the server's threads wake each other, too, which may not fail.
    let calls = CALLS.into_iter().filter(|(call, _)| *call != "write" || !fault.contains("error"));
    for (call, most) in calls {
        for at in 1..=most {
            let server = ground.start(&[&ground.one]);
            // As it shall be before.
            let before = ask(&server, &ground, !removes).expect("an answer");
            assert!(before.status < 300, "{before:?}");
            server.stop();
            let name = format!("{call}-{at}");
            let (server, strace) = traced(&ground, &name, &[(call, &format!("{fault}:when={at}"))]);
            let answer = ask(&server, &ground, removes);
            drop(strace);
            let log = std::fs::read_to_string(log(&ground, &name)).expect("strace's log");
            let (server, is_made) = check(server, answer, &ground, &log);
            if is_made {
                made.push(name);
            }
            let answer = ask(&server, &ground, removes).expect("an answer");
            assert!(answer.status < 300, "after {call} {at}: {answer:?}");
            println!("{call} {at} made: {is_made}");
            expect_disks(&server, &ground, &expected);
            server.stop();
            if !is_made {
                break;
            }
        }
    }
    // Those that no acquire and no removal does without.
    let needed: &[&str] =
        if removes { &["renameat2-1", "unlinkat-2"] } else { &["renameat2-2", "linkat-1"] };
    for call in needed {
        assert!(made.iter().any(|made| made == call), "{call} is not among {made:?}");
    }
}

#[apply(test)]
#[needs(Strace, Root)]
#[case::acquire(false)]
#[case::removal(true)]
fn c1_killed_at_each_call(scratch: Scratch, #[case] removes: bool) {
    for_each_call(&scratch, "signal=KILL", removes, |mut server, answer, ground, _| {
        let is_made = answer.is_err();
        if is_made {
            assert!(!server.wait().success());
            server = ground.start(&[&ground.one]);
        }
        (server, is_made)
    });
}

#[apply(test)]
#[needs(Strace, Root)]
#[case::acquire(false)]
#[case::removal(true)]
fn c1_each_call_fails(scratch: Scratch, #[case] removes: bool) {
    for_each_call(&scratch, "error=EIO", removes, |server, answer, ground, log| {
        let answer = answer.expect("an answer");
        // What is refused hasn't left a disk that nobody knows of.
        if answer.status >= 300 && !removes {
            let listed = server.get("/v1/disks").json();
            assert_eq!((listed, ground.target("vm").exists()), (json!([]), false), "{answer:?}");
        }
        (server, log.contains("(INJECTED)"))
    });
}

/// NFS moves nothing only where nothing is. There too a stranger's file that takes the disk's name
/// meanwhile stays.
#[apply(test)]
#[needs(Strace, Root)]
fn c1_a_stranger_s_file_stays_where_a_move_may_replace(scratch: Scratch) {
    let ground = Ground::new(&scratch);
    let server = ground.start(&[&ground.one]);
    assert_eq!(ask(&server, &ground, false).expect("an answer").status, 200);
    server.stop();
    // Between the move and the removal there is time for a stranger.
    let faults = [("renameat2", "error=EINVAL"), ("unlinkat", "delay_enter=3s:when=1")];
    let (server, strace) = traced(&ground, "replaced", &faults);
    let (target, other) = (ground.target("vm"), scratch.join("other"));
    std::fs::write(&other, "precious").expect("a file");
    let answer = std::thread::scope(|scope| {
        let removal = scope.spawn(|| ask(&server, &ground, true));
        let is_aside = || names(&scratch.join("vm")).iter().any(|name| name.ends_with(".removed"));
        let patience = Instant::now() + Duration::from_secs(60);
        while !is_aside() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_aside(), "it is being removed");
        std::fs::rename(&other, &target).expect("it takes the name");
        removal.join().expect("a client").expect("an answer")
    });
    drop(strace);
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(std::fs::read_to_string(&target).expect("the stranger's"), "precious");
    assert_eq!(names(&scratch.join("vm")), ["precious", "vm"]);
    server.stop();
}
