//! One client beside a crowd: another user's 64 connections, on each of which requests are sent without
//! waiting for answers. In turns with as many spinning processes as there are processors.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use overlay_pool::image::BaseRef;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::client::{Acquire, Client, request};
use super::process::Server;
use crate::bench::Error;
use crate::bench::figures::{Figures, percentile};

/// How many connections the crowd has.
const CONNECTIONS: usize = 64;
/// How many requests it sends on each before it takes an answer.
const PIPELINED: usize = 50;
/// Debian's `nobody`, and that of others.
const SOMEBODY: u32 = 65534;

/// What else this program can be, if it is told so on the command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Roles {
    /// Be a crowd of clients of this server.
    #[arg(long, hide = true, value_name = "SOCKET", requires_all = ["crowd_base", "crowd_targets"])]
    pub(super) crowd: Option<PathBuf>,
    #[arg(long, hide = true)]
    crowd_base: Option<PathBuf>,
    #[arg(long, hide = true)]
    crowd_format: Option<String>,
    #[arg(long, hide = true)]
    crowd_targets: Option<PathBuf>,
    /// Compute for ever.
    #[arg(long, hide = true)]
    pub(super) spin: bool,
}

impl Roles {
    /// Asks until it is killed.
    pub(super) async fn ask(self, socket: &Path) -> io::Result<()> {
        let Self { crowd_base: base, crowd_format: format, crowd_targets: targets, .. } = self;
        let mut members = JoinSet::new();
        for member in 0..CONNECTIONS {
            let socket = socket.to_owned();
            // There after the first request: the others are refused, which asks as much of the server.
            let target = targets.as_ref().map(|dir| dir.join(format!("crowd-{member}")));
            let body = json!({ "base": base, "format": format, "target": target }).to_string();
            let requests = request("POST /v1/acquire", &body).repeat(PIPELINED);
            members.spawn(async move {
                let stream = UnixStream::connect(socket).await?;
                let (mut answers, mut asks) = stream.into_split();
                let heard = tokio::spawn(async move {
                    let mut answer = vec![0; 1 << 16];
                    while answers.read(&mut answer).await? > 0 {}
                    io::Result::Ok(())
                });
                while asks.write_all(requests.as_bytes()).await.is_ok() {}
                heard.await?
            });
        }
        members.join_all().await.into_iter().collect()
    }
}

/// Has one client acquire `count` overlays in each of `rounds`, beside the one and the other; none if
/// this isn't root, who alone can be two users.
pub(super) async fn measure(
    server: &mut Server,
    base: &BaseRef,
    targets: &Path,
    rounds: usize,
    count: usize,
) -> Result<Figures, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Figures::default());
    }
    let socket = server.socket().to_owned();
    for (path, mode) in socket.ancestors().zip([0o666, 0o711, 0o711]) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    }
    let processors = std::thread::available_parallelism()?.get();
    let (mut beside_crowd, mut beside_spinners) = (Vec::new(), Vec::new());
    let mut client = server.client().await?;
    for _ in 0..rounds {
        let crowd = start(|command| {
            command.arg("--crowd").arg(&socket).arg("--crowd-base").arg(&base.path);
            command.args(["--crowd-format", base.format.as_str()]);
            command.arg("--crowd-targets").arg(targets).uid(SOMEBODY).gid(SOMEBODY);
        })?;
        let last = targets.join(format!("crowd-{}", CONNECTIONS - 1));
        let mut crowd = [crowd];
        while !last.exists() {
            // It has begun, or it fails.
            if let Some(status) = crowd[0].try_wait()? {
                return Err(format!("the crowd ended: {status}").into());
            }
            acquire(&mut client, targets, 1).await?;
        }
        beside_crowd.extend(acquire(&mut client, targets, count).await?);
        crowd[0].kill().await?;
        let spinners = (0..processors).map(|_| start(|command| _ = command.arg("--spin")));
        let spinners = spinners.collect::<Result<Vec<_>, _>>()?;
        beside_spinners.extend(acquire(&mut client, targets, count).await?);
        for mut spinner in spinners {
            spinner.kill().await?;
        }
        for member in 0..CONNECTIONS {
            let _ = std::fs::remove_file(targets.join(format!("crowd-{member}")));
        }
    }
    let mut figures = Figures::default();
    figures.set("crowd_p99_us", percentile(beside_crowd, 99));
    figures.set("spinners_p99_us", percentile(beside_spinners, 99));
    figures.divide("crowd_p99_by_spinners", "crowd_p99_us", "spinners_p99_us");
    Ok(figures)
}

/// This program again, as something else. Dropped, it is killed.
fn start(with: impl Fn(&mut Command)) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    with(&mut command);
    command.stdin(Stdio::null()).kill_on_drop(true).spawn()
}

async fn acquire(
    client: &mut Client,
    targets: &Path,
    count: usize,
) -> Result<Vec<Duration>, Error> {
    let target = targets.join("one.qcow2");
    let mut samples = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        client.acquire(&target, None).await?;
        samples.push(start.elapsed());
        client.give_back(&target)?;
    }
    Ok(samples)
}
