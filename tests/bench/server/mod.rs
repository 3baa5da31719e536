//! A server under load, in turns with the same load on a pool in this process, and on servers that
//! only answer.

mod bare;
pub(crate) mod client;
mod crowd;
mod load;
pub(super) mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use overlay_pool::image::Overlay;
use overlay_pool::{OverlayPool, PoolConfig};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use self::bare::{Asker, Bare};
use self::client::{Acquire, Caller, Client};
use self::load::{Pace, Side};
use self::process::Server;
use super::figures::{Columns, Figures, Row};
use super::proc::Resident;
use super::{Bench, Error, Ground, Measured, Options, filesystem, float, ground};

/// How many clients acquire at once.
const CLIENTS: usize = 64;
/// How many overlays each side has ready at most: about what is acquired in the time that
/// restocking begins after.
const READY: usize = 10_000;
/// At which rate all clients together acquire if they don't do so as fast as they can.
const RATE: u32 = 10_000;
/// So many acquires as fast as can be are made for one at that rate, for one of a larger disk, and, by
/// each client, for one beside a crowd.
const PLAIN_TO_PACED: usize = 4;
const PLAIN_TO_LARGER: usize = 10;
const PLAIN_TO_CROWDED: usize = 2;
/// How long restocking may make no overlay.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measure a server under the load of 64 clients, in turns with the same load on a pool in this
/// process.
#[derive(Debug, Parser)]
pub(super) struct Serve {
    #[command(flatten)]
    options: Options,
    /// How many overlays to acquire of each side as fast as can be.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    count: usize,
    /// How often the sides take turns.
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    rounds: usize,
    #[command(flatten)]
    bare: bare::Arguments,
    #[command(flatten)]
    roles: crowd::Roles,
}

impl Serve {
    /// If it is to be the server that only answers, is that; else measures.
    pub(super) fn run(self) -> Result<usize, Error> {
        if self.roles.spin {
            loop {
                std::hint::spin_loop();
            }
        }
        if let Some(socket) = self.bare.bare.clone() {
            return Ok(Runtime::new()?.block_on(self.bare.serve(&socket)).map(|()| 0)?);
        }
        if let Some(socket) = self.roles.crowd.clone() {
            return Ok(Runtime::new()?.block_on(self.roles.ask(&socket)).map(|()| 0)?);
        }
        super::run(self)
    }
}

impl Bench for Serve {
    const DIR: &str = "/dev/shm";
    const ROWS: &[Row] = &[
        ("ready", "overlays ready at most", None),
        ("plain_acquires", "as fast as can be: acquires", None),
        ("plain_per_s", "  acquires/s", Some(("serve", '≥', 10_000.0))),
        ("plain_per_s_by_floor", "  acquires/s ÷ what can be had", Some(("serve", '≥', 0.7))),
        ("plain_pooled_percent", "  pooled, %", None),
        ("plain_pooled_p50_us", "  pooled p50, µs", None),
        ("plain_pooled_p99_us", "  pooled p99, µs", None),
        ("plain_cpu_us", "  the server's CPU time, µs each", None),
        ("paced_acquires", "at 10,000/s: acquires", None),
        ("paced_pooled_percent", "  pooled, %", None),
        ("paced_pooled_p50_us", "  pooled p50, µs", None),
        ("paced_pooled_p50_by_bare", "  pooled p50 ÷ bare's", Some(("serve", '≤', 4.0))),
        ("paced_pooled_p99_us", "  pooled p99, µs", Some(("serve", '≤', 5000.0))),
        ("paced_pooled_p99_by_bare", "  pooled p99 ÷ bare's", None),
        ("paced_slices_p99_us", "  p99 in three of four tenths of a second, µs", None),
        ("paced_slices_p99_by_bare", "  that ÷ bare's", Some(("serve", '≤', 4.0))),
        ("paced_cpu_us", "  the server's CPU time, µs each", None),
        ("larger_acquires", "on demand, as fast as can be", None),
        ("larger_per_s", "  acquires/s", None),
        ("larger_on_demand_p50_us", "  on demand p50, µs", None),
        ("larger_on_demand_p99_us", "  on demand p99, µs", None),
        ("crowd_p99_us", "one client beside another's crowd, p99, µs", None),
        ("spinners_p99_us", "  beside spinning processes, p99, µs", None),
        ("crowd_p99_by_spinners", "  the one ÷ the other", Some(("serve", '≤', 1.5))),
        ("memory_start_mib", "memory with a full pool, MiB", None),
        ("memory_early_mib", "memory after round 1, MiB", None),
        ("memory_end_mib", "memory at the end, MiB", None),
        ("memory_most_mib", "memory at most, MiB", None),
        ("memory_end_by_early", "memory, end ÷ after round 1", Some(("serve", '≤', 1.1))),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let rounds = self.rounds;
        let each = self.count.div_ceil(rounds * CLIENTS);
        let ready = (each * CLIENTS * rounds).min(READY);
        let [server_dir, server_targets, targets] =
            ["server", "server-targets", "targets"].map(|name| ground.folder(name));
        let server_targets = server_targets?;

        ground.progress("stocking");
        let mut server = Server::start(&server_dir?, &server_targets, &ground.base, ready).await?;
        let start = server.resident()?.now;
        let mut watch = server.client().await?;
        let first = server_targets.join("first.qcow2");
        let answer = watch.answer_to(&first, None).await?.to_string();
        watch.give_back(&first)?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(server.client().await?);
        }
        let mut served = Side::new(clients, Some(server.proc()), &server_targets)?;
        let pool = start_pool(&ground, ready).await?;
        let caller = || Caller { pool: Arc::clone(&pool), base: ground.base.clone() };
        let mut called = Side::new((0..CLIENTS).map(|_| caller()).collect(), None, &targets?)?;
        let mut floors = [
            Floor::start(&ground, "bare", false, &watch, &answer).await?,
            Floor::start(&ground, "bare, a hop", true, &watch, &answer).await?,
        ];
        server.restocked(&mut watch, ready).await?;

        let mut early = start;
        for round in 1..=rounds {
            ground.progress(format!("as fast as can be, {round} of {rounds}"));
            served.round(Pace::Free, each, None).await?;
            if round == 1 {
                early = server.resident()?.now;
            }
            server.restocked(&mut watch, ready).await?;
            called.round(Pace::Free, each, None).await?;
            restocked(&pool, ready).await?;
            for floor in &mut floors {
                floor.side.round(Pace::Free, each, None).await?;
            }
        }
        let paced = each.div_ceil(PLAIN_TO_PACED);
        for round in 1..=rounds {
            ground.progress(format!("at a steady rate, {round} of {rounds}"));
            served.round(Pace::Steady, paced, None).await?;
            server.restocked(&mut watch, ready).await?;
            called.round(Pace::Steady, paced, None).await?;
            restocked(&pool, ready).await?;
            for floor in &mut floors {
                floor.side.round(Pace::Steady, paced, None).await?;
            }
        }
        ground.progress("on demand");
        let plain = &ground.overlay;
        let size = plain.virtual_size() + (1 << 20);
        let larger = Overlay::new(plain.backing(), plain.format(), size, plain.profile())?;
        for _ in 0..rounds {
            served.round(Pace::Free, each.div_ceil(PLAIN_TO_LARGER), Some(size)).await?;
            called.round(Pace::Free, each.div_ceil(PLAIN_TO_LARGER), Some(size)).await?;
        }
        let Resident { now: end, most } = server.resident()?;

        ground.progress("beside a crowd");
        let asks = each.div_ceil(PLAIN_TO_CROWDED);
        let crowd =
            crowd::measure(&mut server, &ground.base, &server_targets, rounds, asks).await?;

        ground.progress("checking");
        let sound = check([&served.kept, &called.kept], &ground.overlay, ground.qemu)?
            + check([&served.kept_larger, &called.kept_larger], &larger, ground.qemu)?;
        ground.progress("removing");
        drop((served.clients, watch));
        server.stop().await?;
        pool.stop().await;

        let bare = floors.map(|floor| (floor.name, floor.side.figures.columns()));
        let mut columns = Columns::from(bare);
        let mut in_process = called.figures.columns();
        let mut serve = served.figures.columns();
        in_process.set("ready", float(ready));
        serve.set("ready", float(ready));
        compare(&mut serve, &in_process, &columns["bare"]);
        serve.0.extend(crowd.0);
        for (when, bytes) in [("start", start), ("early", early), ("end", end), ("most", most)] {
            serve.set(format!("memory_{when}_mib"), bytes / 1_048_576.0);
        }
        serve.divide("memory_end_by_early", "memory_end_mib", "memory_early_mib");
        columns.extend([("serve", serve), ("in process", in_process)]);
        Ok(Measured {
            what: format!(
                "{CLIENTS} clients of a server, as many callers of a pool in their own process, and \
                 as many clients of a bare server that only answers the same (at once, or after a \
                 hop to another thread and back), in turns. What can be had is one acquire in \
                 process and one bare request, one after the other."
            ),
            columns,
            sound,
            unless: not_judged(&ground, rounds),
        })
    }
}

/// Looks at what each side kept; says how many overlays that were.
fn check(kept: [&Vec<PathBuf>; 2], expected: &Overlay, qemu: bool) -> Result<usize, Error> {
    for kept in kept {
        ground::check(kept, expected, true, qemu)?;
    }
    Ok(kept.map(Vec::len).iter().sum())
}

/// A bare server, and its clients.
struct Floor {
    name: &'static str,
    side: Side<Asker>,
    _bare: Bare,
}

impl Floor {
    async fn start(
        ground: &Ground,
        name: &'static str,
        hop: bool,
        like: &Client,
        answer: &str,
    ) -> Result<Self, Error> {
        let mut bare = Bare::start(&ground.dir, answer, hop)?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(bare.client(like).await?);
        }
        let side = Side::new(clients, Some(bare.proc()), &ground.folder(name)?)?;
        Ok(Self { name, side, _bare: bare })
    }
}

/// Sets what the server reaches of what can be had: the time of an acquire in process and of a
/// request that asks for nothing, one after the other.
fn compare(serve: &mut Figures, in_process: &Figures, bare: &Figures) {
    let floor = 1.0 / in_process.0["plain_per_s"] + 1.0 / bare.0["plain_per_s"];
    serve.set("plain_per_s_by_floor", serve.0["plain_per_s"] * floor);
    for figure in ["paced_pooled_p50", "paced_pooled_p99", "paced_slices_p99"] {
        let us = format!("{figure}_us");
        let ratio = serve.0.get(&us).zip(bare.0.get(&us)).map(|(serve, bare)| serve / bare);
        serve.set(format!("{figure}_by_bare"), ratio);
    }
}

/// A pool like the server's.
async fn start_pool(ground: &Ground, ready: usize) -> Result<Arc<OverlayPool>, Error> {
    let pool = Arc::new(OverlayPool::new(PoolConfig {
        max_concurrent_vms: i64::try_from(2 * ready)?,
        pool_dir: ground.dir.join("pool"),
        ..PoolConfig::default()
    })?);
    pool.start(Some(vec![ground.base.clone()])).await?;
    restocked(&pool, ready).await?;
    Ok(pool)
}

/// Waits until `count` overlays are ready.
async fn restocked(pool: &OverlayPool, count: usize) -> Result<(), Error> {
    let (mut had, mut since) = (0, Instant::now());
    loop {
        let has = pool.stats().ready.values().sum();
        if has == count {
            return Ok(());
        }
        if has != had {
            (had, since) = (has, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!("restocking stopped at {has} of {count} overlays").into());
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The promises are for two cores and tmpfs, and for rounds to compare.
fn not_judged(ground: &Ground, rounds: usize) -> Option<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if ground.filesystem != filesystem::TMPFS {
        Some(ground.filesystem.clone())
    } else if cores < 2 {
        Some("one core".to_owned())
    } else {
        (rounds < 2).then(|| "one round".to_owned())
    }
}
