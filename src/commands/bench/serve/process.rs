//! The server that is measured: a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use overlay_pool::image::{BaseRef, Format};
use overlay_pool::process::spawn;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::client::Client;
use crate::commands::bench::error::BenchError;
use crate::commands::bench::machine::{Resident, cpu_time, resident};

/// How long a server may take to start, to stock its pool, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// `overlay-pool serve` of one base image. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    base: BaseRef,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts a server in `dir`, an empty folder, whose clients may have overlays in `targets`,
    /// and waits until `ready` of them are ready.
    pub(super) async fn start(
        dir: &Path,
        targets: &Path,
        base: &BaseRef,
        ready: usize,
    ) -> Result<Self, BenchError> {
        let (socket, log) = (dir.join("socket"), dir.join("log"));
        let program = std::env::current_exe().map_err(BenchError::at("/proc/self/exe"))?;
        let mut command = Command::new(&program);
        command
            .args(["serve", "--creator", "native", "--max-vms", &(2 * ready).to_string()])
            .arg(match base.format {
                Format::Qcow2 => "--base",
                Format::Raw => "--raw-base",
            })
            .arg(&base.path)
            .arg("--targets")
            .arg(targets)
            .arg("--socket")
            .arg(&socket)
            .arg("--dir")
            .arg(dir.join("pool"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(BenchError::at(&log))?);
        let child = spawn(command).await.map_err(BenchError::at(&program))?;
        let mut server = Self { child, base: base.clone(), socket, log };
        let mut client = server.first_client().await?;
        server.restocked(&mut client, ready).await?;
        Ok(server)
    }

    /// Another connection.
    pub(super) async fn client(&self) -> Result<Client, BenchError> {
        Client::connect(&self.socket, self.base.clone()).await
    }

    /// Waits until `count` overlays are ready.
    pub(super) async fn restocked(
        &self,
        client: &mut Client,
        count: usize,
    ) -> Result<(), BenchError> {
        let (mut had, mut since) = (0, Instant::now());
        loop {
            let has = client.ready().await?;
            if has == count {
                return Ok(());
            }
            if has != had {
                (had, since) = (has, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                let message = format!("restocking stopped at {has} of {count} overlays");
                return Err(BenchError::Server { message });
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// What it takes of the memory.
    pub(super) fn resident(&self) -> Result<Resident, BenchError> {
        resident(&self.proc()).map_err(BenchError::at(self.proc()))
    }

    /// The time that it has had on any core.
    pub(super) fn cpu_time(&self) -> Result<Duration, BenchError> {
        cpu_time(&self.proc()).map_err(BenchError::at(self.proc()))
    }

    fn proc(&self) -> PathBuf {
        format!("/proc/{}", self.child.id().unwrap_or(0)).into()
    }

    /// Ends it, as a service manager does.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|errno| self.failed(&errno.to_string()))?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(&status.to_string())),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(_) => Err(self.failed("it doesn't end")),
        }
    }

    /// Waits until it listens.
    async fn first_client(&mut self) -> Result<Client, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(client) = self.client().await {
                return Ok(client);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&status.to_string()));
            }
            if Instant::now() > deadline {
                return Err(self.failed("it doesn't listen"));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// An error with the last that the server said.
    fn failed(&self, what: &str) -> BenchError {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let message = match log.lines().last() {
            Some(line) => format!("{what}: {line}"),
            None => what.to_owned(),
        };
        BenchError::Server { message }
    }
}
