//! The server is killed at random moments under load, again and again, over one folder.
//!
//! `OVERLAY_POOL_CHAOS_ROUNDS` sets how often (40 by default, 100 in a wide sweep; the weekly run takes
//! 3,000), `OVERLAY_POOL_SEED` the moments.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::json;

use super::ground::{Ground, LARGER, PRECIOUS, kill};
use super::life::is_wide;
use crate::harness::http::{Client, Response};
use crate::harness::pool_process::directories;
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};
use crate::harness::qemu;
use crate::harness::server::{self, Server};

const CLIENTS: usize = 6;
/// What each client asks for, one after the other, on one connection.
const ACQUIRES: usize = 8;
/// How many of a round's overlays stay, to be looked at again after all further kills.
const KEPT: usize = 3;
/// How many of them `qemu-img check` looks at in the end.
const CHECKED: usize = 24;

/// What a client got for each target that it asked for; nothing for the last, where the server
/// was killed before it answered.
type Answers = BTreeMap<String, Option<u16>>;

/// After each next start nothing is left over, no acquired overlay is damaged or handed out
/// twice, and what was answered is there.
#[apply(test)]
#[needs(QemuImg)]
fn c1_a2_a4_a_server_killed_at_random(#[from(scratch_in_memory)] scratch: Scratch) {
    let usual = if is_wide() { 100 } else { 40 };
    let rounds = number("OVERLAY_POOL_CHAOS_ROUNDS").unwrap_or(usual);
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_CHAOS_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let ground = Ground::new(&scratch);
    let bases = [ground.one.as_path(), &ground.other];

    // How long it takes when nobody is killed: so the moments are spread over all of it.
    let begin = Instant::now();
    let server = ground.start(&bases);
    let starting = begin.elapsed();
    let answers = load(&server, &ground, "whole");
    let acquiring = begin.elapsed().saturating_sub(starting);
    assert_answers(&answers, &ground.overlays().expect("sound overlays"));
    assert!(answers.values().all(Option::is_some), "{answers:?}");
    server.stop();

    let mut before = keep_some(&ground, HashSet::new());
    let (mut left_over, mut handed_over, mut unanswered) = (0, 0, 0);
    for round in 0..rounds {
        let answers = if random.random_bool(0.2) {
            let server = ground.launch(&bases);
            std::thread::sleep(random.random_range(Duration::ZERO..=starting));
            kill(server);
            Answers::new()
        } else {
            let server = ground.start(&bases);
            let moment = random.random_range(Duration::ZERO..=acquiring);
            let name = format!("round-{round}");
            std::thread::scope(|scope| {
                let clients = scope.spawn(|| load(&server, &ground, &name));
                std::thread::sleep(moment);
                server.signal(Signal::KILL);
                clients.join().expect("the clients end")
            })
        };
        left_over += directories(&ground.folder).len();

        // It works again; what the dead one left is gone, and nothing else is.
        let server = ground.start(&bases);
        let left: Vec<_> = directories(&ground.folder);
        assert_eq!(left.len(), 1, "round {round}: C1: {left:?}");
        let overlays = ground.overlays().unwrap_or_else(|error| panic!("round {round}: {error}"));
        let lost: Vec<_> = before.difference(&overlays).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} went away");
        assert_answers(&answers, &overlays.difference(&before).cloned().collect());
        handed_over += overlays.len() - before.len();
        unanswered += answers.values().filter(|answer| answer.is_none()).count();
        before = keep_some(&ground, before);
        if random.random_bool(0.5) { kill(server) } else { server.stop() }
    }
    println!(
        "{handed_over} overlays handed over, {unanswered} requests without an answer, \
         {left_over} directories left over"
    );
    ground.start(&bases).stop();
    assert!(directories(&ground.folder).is_empty() && !server::socket(&ground.folder).exists());
    let overlays = ground.overlays().expect("sound overlays");
    assert!(!overlays.is_empty(), "nothing was ever handed over");
    for name in overlays.iter().take(CHECKED) {
        qemu::check(&ground.target(name));
    }
}

/// Has all clients ask at once, until they are done or the server is gone.
fn load(server: &Server, ground: &Ground, name: &str) -> Answers {
    let socket = server.socket();
    std::thread::scope(|scope| {
        let client = |client| scope.spawn(move || ask(socket, ground, &format!("{name}-{client}")));
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    })
}

/// One client: pooled overlays, some on demand, an open one, and a target that is taken.
fn ask(socket: &Path, ground: &Ground, name: &str) -> Answers {
    let mut answers = Answers::new();
    let Ok(mut client) = Client::connect(socket) else { return answers };
    for number in 0..ACQUIRES {
        let larger = number % 4 == 3;
        let kind = if larger { LARGER.0 } else { "plain" };
        let target = format!("{kind}-{name}-{number}");
        let size = larger.then_some(LARGER.1);
        let mut acquire = |target: &str| {
            let target = ground.target(target);
            let request = json!({ "base": ground.one, "target": target, "virtual_size": size });
            client.post("/v1/acquire", &request)
        };
        let answer = acquire(&target).as_ref().map(status).ok();
        answers.insert(target, answer);
        let refused = acquire(PRECIOUS).map(|answer| assert_eq!(answer.status, 409, "A1"));
        let opened = client.post("/v1/open", &json!({ "base": ground.other }));
        if answer.is_none() || refused.is_err() || opened.is_err() {
            break;
        }
    }
    answers
}

fn status(answer: &Response) -> u16 {
    answer.status
}

/// What was answered is there, and of what was not nobody else's.
#[track_caller]
fn assert_answers(answers: &Answers, overlays: &HashSet<String>) {
    for (target, answer) in answers {
        match answer {
            Some(200) => assert!(overlays.contains(target), "A2: {target} isn't there"),
            Some(status) => panic!("{target} was refused with {status}"),
            None => {}
        }
    }
    let strange: Vec<_> = overlays.iter().filter(|name| !answers.contains_key(*name)).collect();
    assert!(strange.is_empty(), "nobody asked for {strange:?}");
}

/// Removes the overlays beyond some new ones; gives those that stay.
fn keep_some(ground: &Ground, before: HashSet<String>) -> HashSet<String> {
    let overlays = ground.overlays().expect("sound overlays");
    let (mut kept, mut new) = (before, 0);
    for name in overlays {
        if kept.contains(&name) {
            continue;
        }
        new += 1;
        if new <= KEPT {
            kept.insert(name);
        } else {
            std::fs::remove_file(ground.target(&name)).expect("an overlay is removed");
        }
    }
    kept
}
