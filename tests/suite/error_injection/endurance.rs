//! One server lives through many requests, good ones and hostile ones, while its files are taken
//! away and put back.
//!
//! `OVERLAY_POOL_ENDURANCE_REQUESTS` sets how many requests there are (4,000 by default; the weekly
//! run takes 1,000,000), `OVERLAY_POOL_SEED` which.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::ground::{Ground, LARGER, Overlays, PRECIOUS};
use crate::harness::faults::descriptors;
use crate::harness::http::{Client, request};
use crate::harness::pool_process::directories;
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};
use crate::harness::qcow2::Image;
use crate::harness::server::{self, Server};

const CLIENTS: usize = 4;
/// How many requests there are between two looks at everything.
const ROUND: u64 = 1_000;
/// How many of a round's overlays stay, to be looked at again until the end.
const KEPT: usize = 2;
/// How much more memory a server may need in the second half than in the first, beside a fifth.
const GROWTH: u64 = 4 << 20;

/// Whether each target that was asked for was answered for; a client may not have listened.
type Asked = HashMap<String, bool>;

/// No acquired overlay is lost, damaged or handed out twice, and nothing adds up.
#[apply(test)]
fn nothing_adds_up_and_nothing_is_lost(#[from(scratch_in_memory)] scratch: Scratch) {
    let requests = number("OVERLAY_POOL_ENDURANCE_REQUESTS").unwrap_or(4_000);
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_ENDURANCE_REQUESTS={requests}");
    let ground = Ground::new(&scratch);
    let mut command = Server::command(&scratch);
    command.args(["--max-vms", "32", "--targets"]).arg(ground.folder.join("vm"));
    command.arg("--base").arg(&ground.one).arg("--base").arg(&ground.other);
    // Not a line for each request.
    command.env("OVERLAY_POOL_LOG", "overlay_pool=warn");
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let (mut kept, mut open, mut memory) = (Overlays::new(), None, Vec::new());
    let rounds = requests.div_ceil(ROUND).max(2);
    let (mut handed_over, mut unanswered) = (0, HashSet::new());
    for round in 0..rounds {
        let asked = load(&server, &ground, &round.to_string(), seed.wrapping_add(round));
        // A client that didn't listen may have its overlay a little later.
        server
            .await_that("all are done", |server| open_files(server) <= open.unwrap_or(usize::MAX));
        if open.is_none() {
            server.await_that("clients are gone", |server| connections(server) == 1);
            open = Some(open_files(&server));
        }
        let overlays = ground.overlays_beyond(&kept);
        let overlays = overlays.unwrap_or_else(|error| panic!("round {round}: {error}"));
        for (name, answered) in &asked {
            assert!(
                !answered || overlays.contains_key(name),
                "round {round}: A2: {name} isn't there"
            );
        }
        for name in kept.keys() {
            assert!(overlays.contains_key(name), "round {round}: {name} went away");
        }
        let strange = |name: &&String| {
            let known = asked.contains_key(*name) || kept.contains_key(*name);
            !known && !unanswered.contains(*name)
        };
        let strange: Vec<_> = overlays.keys().filter(strange).collect();
        assert!(strange.is_empty(), "round {round}: nobody asked for {strange:?}");
        handed_over += overlays.len() - kept.len();
        let mut new = 0;
        for (name, file) in overlays {
            if kept.contains_key(&name) {
                continue;
            }
            new += 1;
            if new <= KEPT && kept.len() < 1_000 {
                kept.insert(name, file);
            } else {
                std::fs::remove_file(ground.target(&name)).expect("an overlay is removed");
            }
        }
        let not_heard = asked.into_iter().filter(|(_, answered)| !answered);
        unanswered = not_heard.map(|(name, _)| name).collect();
        memory.push(resident(&server));
    }
    let (first, second) = memory.split_at(memory.len() / 2);
    let most = |of: &[u64]| of.iter().copied().max().expect("some rounds");
    let (first, second) = (most(first), most(second));
    println!("{handed_over} handed over in {rounds} rounds, {first} and {second} bytes of memory");
    assert!(handed_over > 0, "nothing was ever handed over");
    assert!(second <= first + first / 5 + GROWTH, "{first} bytes of memory became {second}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.stop();
    assert!(directories(&scratch).is_empty() && !server::socket(&scratch).exists());
}

/// Has all clients ask at once; gives what they asked for.
fn load(server: &Server, ground: &Ground, name: &str, seed: u64) -> Asked {
    std::thread::scope(|scope| {
        let client = |client: usize| {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(client as u64));
            let name = format!("{name}-{client}");
            scope.spawn(move || Asker { server, ground, name, random, asked: Asked::new() }.ask())
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    })
}

struct Asker<'a> {
    server: &'a Server,
    ground: &'a Ground,
    name: String,
    random: StdRng,
    asked: Asked,
}

impl Asker<'_> {
    fn ask(mut self) -> Asked {
        let mut client = self.server.client();
        for number in 0..ROUND / CLIENTS as u64 {
            match self.random.random_range(0..1000) {
                0..760 => self.acquire(&mut client, number),
                760..830 => self.refused(&mut client),
                830..890 => self.hangs_up(number),
                890..950 => self.breaks_off(),
                950..990 => {
                    let opened = client.post("/v1/open", &json!({ "base": self.ground.other }));
                    // What isn't received is discarded by the kernel when the answer is read.
                    assert_eq!(opened.expect("an answer").status, 200);
                }
                990..998 => self.administers(&mut client),
                _ => self.takes_away(),
            }
        }
        self.asked
    }

    /// Another target, of a larger disk at times.
    fn target(&mut self, number: u64) -> (String, Option<u64>) {
        let larger = self.random.random_bool(0.1);
        let kind = if larger { LARGER.0 } else { "plain" };
        (format!("{kind}-{}-{number}", self.name), larger.then_some(LARGER.1))
    }

    fn request(&self, target: &str, size: Option<u64>) -> Value {
        let target = self.ground.target(target);
        json!({ "base": self.ground.one, "target": target, "virtual_size": size })
    }

    fn acquire(&mut self, client: &mut Client, number: u64) {
        let (target, size) = self.target(number);
        let answer = client.post("/v1/acquire", &self.request(&target, size)).expect("an answer");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        self.asked.insert(target, true);
    }

    fn refused(&mut self, client: &mut Client) {
        let one = &self.ground.one;
        let nowhere = self.ground.target("nowhere");
        let (status, request) = match self.random.random_range(0..4) {
            0 => (409, self.request(PRECIOUS, None)),
            1 => (403, json!({ "base": "/etc/passwd", "target": nowhere })),
            2 => (403, json!({ "base": one, "target": "/outside" })),
            _ => (422, json!({ "base": one, "target": nowhere, "size": 1 })),
        };
        let answer = client.post("/v1/acquire", &request).expect("an answer");
        assert_eq!(answer.status, status, "{request}: {answer:?}");
    }

    /// Asks and doesn't listen.
    fn hangs_up(&mut self, number: u64) {
        let (target, size) = self.target(number);
        let body = self.request(&target, size).to_string();
        let request = request("POST", "/v1/acquire", Some(&body));
        self.asked.insert(target, false);
        self.server.client().send(request.as_bytes()).expect("sent");
    }

    /// A request that ends somewhere, or is none.
    fn breaks_off(&mut self) {
        let request = "POST /v1/acquire HTTP/1.1\r\nhost: pool\r\ncontent-length: 99\r\n\r\n{\"ba";
        let end = self.random.random_range(0..request.len());
        let text = if self.random.random_bool(0.5) { &request[..end] } else { "\0\u{1}\r\n\r\n" };
        // The server may have closed the connection by then.
        let _ = self.server.client().send(text.as_bytes());
    }

    fn administers(&mut self, client: &mut Client) {
        let path = self.ground.one.to_string_lossy().replace('/', "%2F");
        let answer = match self.random.random_range(0..7) {
            0 => client.ask("POST", "/v1/drain", None),
            1 | 2 => client.ask("POST", "/v1/rescan", None),
            3 => client.ask("DELETE", &format!("/v1/bases/{path}"), None),
            4 => client.post("/v1/bases", &json!({ "path": self.ground.one })),
            5 => client.get("/metrics"),
            _ => {
                self.server.signal(Signal::HUP);
                client.get("/v1/bases")
            }
        };
        let answer = answer.expect("an answer");
        assert!(matches!(answer.status, 200 | 201 | 204 | 404), "{answer:?}");
    }

    /// A base image is replaced by another file, or ready overlays are removed.
    fn takes_away(&mut self) {
        if self.random.random_bool(0.5) {
            let new = self.ground.folder.join(format!("new-{}", self.name));
            Image::new(1 << 20).write(&new);
            std::fs::rename(new, &self.ground.one).expect("it is replaced");
            return;
        }
        let files =
            directories(&self.ground.folder).into_iter().filter_map(|it| it.read_dir().ok());
        let paths = files.flatten().flatten().map(|file| file.path());
        let is_overlay = |path: &PathBuf| path.extension().is_some_and(|name| name == "qcow2");
        for path in paths.filter(is_overlay).take(8) {
            // Another client may have it by now.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open_files(server: &Server) -> usize {
    descriptors::open(server.pid()).expect("its descriptors").len()
}

fn connections(server: &Server) -> u64 {
    let metrics = server.get("/metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("overlay_pool_http_connections "));
    line.and_then(|count| count.parse().ok()).expect("a count")
}

fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero()));
    let status = status.expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a size") << 10
}
