//! A server that is killed under load, again and again, over one folder.
//!
//! `OVERLAY_POOL_KILLS` sets how often (5 by default; CI takes 100),
//! `OVERLAY_POOL_SEED` the moments.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::delegated::Delegated;
use crate::harness::http::Client;
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};
use crate::harness::server::{self, Server};
use crate::harness::vm_server::{self, Ran, execute};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// Who asks at the same time: one more than there are VMs.
const CLIENTS: usize = 4;
const VMS: u32 = 3;
/// The longest that a server is left alone once all have asked.
const MOMENT: Duration = Duration::from_millis(1500);

fn python(code: &str) -> Value {
    json!({ "language": "python", "code": code })
}

/// Each caller has an answer or learns that the server is gone; and once the next one is there,
/// nothing is left: no process, no directory, no socket, no cgroup.
#[apply(test)]
async fn a_server_killed_under_load(scratch: Scratch) {
    let kills = number("OVERLAY_POOL_KILLS").unwrap_or(5);
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_KILLS={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    // A host that gives none has none to leave.
    let cgroup = Delegated::new().ok();
    let (mut answered, mut left_over) = (0, 0);
    for round in 0..kills {
        let server = start(&scratch, cgroup.as_ref());
        let moment = random.random_range(Duration::ZERO..=MOMENT);
        let socket = server.socket();
        answered += thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| load(socket))).collect();
            thread::sleep(moment);
            server.signal(Signal::KILL);
            let answers = clients.into_iter().map(|client| client.join().expect("it learns it"));
            answers.sum::<usize>()
        });
        drop(server);
        let left = directories(&scratch);
        left_over += left.len();

        let next = start(&scratch, cgroup.as_ref());
        let there = directories(&scratch);
        assert!(left.is_disjoint(&there), "round {round}: {left:?} and then {there:?}");
        assert_eq!(next.get("/v1/vms").json(), json!([]), "round {round}");
        assert_eq!(execute(&next, &python("print('well')")).printed(), "well\n");
        next.stop();
        assert_no_vm_left(&scratch).await;
        eventually("no process has a file of it", || holders(&scratch).is_empty()).await;
        assert!(!server::socket(&scratch).exists(), "round {round}");
        let cgroups = cgroup.as_ref().map(Delegated::vms).unwrap_or_default();
        assert_eq!(cgroups, Vec::<PathBuf>::new(), "round {round}");
    }
    println!("{answered} answers, {left_over} directories left over");
    // On a slow machine each may have been killed before its first answer.
    assert!(left_over > 0, "no server was killed before it had tidied up");
}

fn start(scratch: &Path, cgroup: Option<&Delegated>) -> Server {
    let mut command = vm_server::command(scratch, VMS);
    command.args(["--language", "python=1"]);
    if let Some(cgroup) = cgroup {
        command = cgroup.command(&command);
    }
    let mut server = Server::launch(scratch, &mut command);
    server.await_ready();
    server
}

/// Asks until the server is gone; says how often it was answered. No answer takes long, and a
/// server that is gone closes the connection.
fn load(socket: &Path) -> usize {
    let mut answered = 0;
    loop {
        let request = python("print('well')");
        let asked = Client::connect(socket).and_then(|mut one| one.post("/v1/execute", &request));
        match asked {
            Ok(answer) if answer.status == 200 => {
                let ran = Ran::of(&answer);
                assert!(matches!(ran.last()["event"].as_str(), Some("end" | "failed")), "{ran:?}");
            }
            Ok(answer) => {
                assert_eq!(answer.problem(503), "too-many-vms");
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => {
                let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!late, "no answer in its time: {error}");
                return answered;
            }
        }
        answered += 1;
    }
}

/// What owners made in the place of VMs and pools.
fn directories(scratch: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(scratch.join("pool")).into_iter().flatten().flatten();
    let is_owned = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ["vm-", "pool-", "server-"].iter().any(|prefix| name.starts_with(prefix))
    };
    entries.map(|entry| entry.path()).filter(is_owned).collect()
}

/// The processes that have a file open below a server's place for VMs and pools.
fn holders(scratch: &Path) -> Vec<PathBuf> {
    let place = scratch.join("pool");
    let holds = |process: &PathBuf| {
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut files = files.filter_map(|file| fs::read_link(file.path()).ok());
        files.any(|file| file.starts_with(&place))
    };
    let entries = fs::read_dir("/proc").expect("processes").flatten();
    entries.map(|entry| entry.path()).filter(holds).collect()
}
