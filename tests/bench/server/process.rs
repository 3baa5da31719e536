//! The server that is measured: a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use overlay_pool::image::{BaseRef, Format};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::client::Client;
use crate::bench::Error;
use crate::bench::proc::{Resident, resident};

/// How long a server may make no overlay while it restocks, and may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// `overlay-pool serve` of one base image. Dropped, it is killed.
pub(in crate::bench) struct Server {
    child: Child,
    base: BaseRef,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts a server in `dir`, an empty folder, whose clients may have overlays in `targets`,
    /// and waits until `ready` of them are ready.
    pub(in crate::bench) async fn start(
        dir: &Path,
        targets: &Path,
        base: &BaseRef,
        ready: usize,
    ) -> Result<Self, Error> {
        let (socket, log) = (dir.join("socket"), dir.join("log"));
        let named = match base.format {
            Format::Qcow2 => "--base",
            Format::Raw => "--raw-base",
        };
        let child = Command::new(env!("CARGO_BIN_EXE_overlay-pool"))
            .args(["serve", "--creator", "native", "--max-vms", &(2 * ready).to_string()])
            .args([Path::new(named), &base.path])
            .args([Path::new("--targets"), targets])
            .args([Path::new("--socket"), &socket])
            .args([Path::new("--dir"), &dir.join("pool")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let mut server = Self { child, base: base.clone(), socket, log };
        let mut client = server.client().await?;
        server.restocked(&mut client, ready).await?;
        Ok(server)
    }

    /// Another connection.
    pub(in crate::bench) async fn client(&mut self) -> Result<Client, Error> {
        let connected = connect(&self.socket, &mut self.child).await;
        let stream = connected.map_err(|error| self.failed(&error.to_string()))?;
        Ok(Client::new(stream, self.base.clone())?)
    }

    /// Waits until `count` overlays are ready.
    pub(in crate::bench) async fn restocked(
        &self,
        client: &mut Client,
        count: usize,
    ) -> Result<(), Error> {
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
                return Err(self.failed(&format!("it stopped restocking at {has} of {count}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn resident(&self) -> Result<Resident, Error> {
        Ok(resident(&self.proc())?)
    }

    /// Where `/proc` has it.
    pub(super) fn proc(&self) -> PathBuf {
        format!("/proc/{}", self.child.id().unwrap_or(0)).into()
    }

    /// Ends it, as a service manager does.
    pub(in crate::bench) async fn stop(mut self) -> Result<(), Error> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(&status.to_string())),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(self.failed("it doesn't end")),
        }
    }

    /// An error with the last that the server said.
    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = log.lines().last().unwrap_or("it said nothing");
        format!("overlay-pool serve: {what}: {said}").into()
    }
}

/// Connects to a process as soon as it listens.
pub(in crate::bench) async fn connect(
    socket: &Path,
    child: &mut Child,
) -> Result<UnixStream, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            return Err(status.to_string().into());
        }
        if Instant::now() > deadline {
            return Err("it doesn't listen".into());
        }
        sleep(Duration::from_millis(5)).await;
    }
}
