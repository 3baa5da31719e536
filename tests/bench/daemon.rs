//! The storage daemon, in turns with its floor: the commands that make an overlay, and nothing
//! else. One caller, no task, no time-out, no job table: what is left is what QEMU itself takes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::Overlay;
use overlay_pool::{OverlayPool, PoolConfig, Source};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::yield_now;

use super::figures::{Figures, Row, percentile};
use super::{Bench, Error, Ground, Measured, Options, acquire, float, ground};

const PROGRAM: &str = "qemu-storage-daemon";
/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measure the storage-daemon creator, in turns with the same QMP commands sent bare.
#[derive(Debug, Parser)]
pub(super) struct Daemon {
    #[command(flatten)]
    options: Options,
    /// How many overlays to make each way.
    #[arg(long, value_name = "N", default_value_t = 200)]
    count: usize,
}

impl Bench for Daemon {
    const ROWS: &[Row] = &[
        ("acquires", "acquires", None),
        ("on_demand_p50_us", "on-demand acquire p50, µs", None),
        ("bare_p50_us", "  bare QMP commands, µs", None),
        ("on_demand_by_bare", "  acquire ÷ QMP commands", Some(("storage-daemon", '≤', 1.2))),
        ("on_demand_p99_us", "on-demand acquire p99, µs", None),
        ("bare_p99_us", "  bare QMP commands, µs", None),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let targets = ground.folder("targets")?;
        let mut daemon = BareDaemon::start()?;
        let pool = OverlayPool::new(PoolConfig {
            max_concurrent_vms: 0,
            pool_dir: ground.dir.join("pool"),
            creator: CreatorKind::StorageDaemon,
            ..PoolConfig::default()
        })?;
        pool.start(Some(Vec::new())).await?;
        ground.progress("on demand");
        let (mut acquired, mut bare, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.count {
            let beside = targets.join(format!("bare-{round}"));
            File::create_new(&beside)?;
            let start = Instant::now();
            daemon.create(&ground.overlay, &beside)?;
            bare.push(start.elapsed());
            let target = targets.join(round.to_string());
            acquired.push(acquire(&pool, &ground.base, &target, Source::OnDemand).await?);
            made.push(target);
            yield_now().await; // a signal is noticed here
        }
        pool.stop().await;
        ground.progress("checking");
        ground::check(&made, &ground.overlay, false, ground.qemu)?;
        let mut figures = Figures::default();
        figures.set("acquires", float(made.len()));
        for (name, samples) in [("on_demand", acquired), ("bare", bare)] {
            figures.set(format!("{name}_p50_us"), percentile(samples.clone(), 50));
            figures.set(format!("{name}_p99_us"), percentile(samples, 99));
        }
        figures.divide("on_demand_by_bare", "on_demand_p50_us", "bare_p50_us");
        Ok(Measured {
            what: "Indented rows were measured alternately with the row above.".to_owned(),
            columns: [(CreatorKind::StorageDaemon.as_str(), figures)].into(),
            sound: made.len(),
            unless: ground.not_a_disk(),
        })
    }
}

/// A storage daemon that is asked directly. Dropped, it is killed.
struct BareDaemon {
    stream: BufReader<UnixStream>,
    line: String,
    _child: Child,
}

impl BareDaemon {
    fn start() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut command = Command::new(PROGRAM);
        command.args(["--chardev", "socket,id=qmp,fd=0", "--monitor", "chardev=qmp"]);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("can't run {PROGRAM}: {error}"))
        })?;
        let mut daemon = Self { stream: BufReader::new(ours), line: String::new(), _child: child };
        daemon.receive()?; // the greeting
        daemon.send(&[json!({ "execute": "qmp_capabilities" })])?;
        daemon.answers(1)?;
        Ok(daemon)
    }

    /// Has the daemon write `overlay` into the empty file at `target`.
    fn create(&mut self, overlay: &Overlay, target: &Path) -> io::Result<()> {
        let profile = overlay.profile();
        self.send(&[
            json!({ "execute": "blockdev-add", "arguments":
                { "node-name": "node", "driver": "file", "filename": target } }),
            json!({ "execute": "blockdev-create", "arguments": { "job-id": "job", "options": {
                "driver": "qcow2",
                "file": "node",
                "version": "v3",
                "size": overlay.virtual_size(),
                "backing-file": overlay.backing(),
                "backing-fmt": overlay.format().as_str(),
                "cluster-size": profile.cluster_size(),
                "extended-l2": profile.extended_l2(),
                "lazy-refcounts": profile.lazy_refcounts(),
            }}}),
        ])?;
        let (mut answered, mut concluded) = (0, false);
        while answered < 2 || !concluded {
            let message = self.receive()?;
            answered += usize::from(message.get("return").is_some());
            concluded |= message["data"]["status"] == "concluded";
        }
        self.send(&[
            json!({ "execute": "query-jobs" }),
            json!({ "execute": "job-dismiss", "arguments": { "id": "job" } }),
            json!({ "execute": "blockdev-del", "arguments": { "node-name": "node" } }),
        ])?;
        let answers = self.answers(3)?;
        match &answers[0][0]["error"] {
            Value::Null => Ok(()),
            error => Err(io::Error::other(format!("{PROGRAM}: {error}"))),
        }
    }

    fn send(&mut self, commands: &[Value]) -> io::Result<()> {
        let lines: String =
            commands.iter().flat_map(|command| [command.to_string(), "\n".to_owned()]).collect();
        self.stream.get_mut().write_all(lines.as_bytes())
    }

    /// What the next `count` commands returned, without the events between.
    fn answers(&mut self, count: usize) -> io::Result<Vec<Value>> {
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            if let Some(answer) = self.receive()?.get_mut("return") {
                answers.push(answer.take());
            }
        }
        Ok(answers)
    }

    fn receive(&mut self) -> io::Result<Value> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err(io::Error::other(format!("{PROGRAM} ended")));
        }
        let message: Value = serde_json::from_str(&self.line)?;
        match message.get("error") {
            Some(error) => Err(io::Error::other(format!("{PROGRAM}: {error}"))),
            None => Ok(message),
        }
    }
}
