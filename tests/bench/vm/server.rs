//! Code in the VMs of a server, which is a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use overlay_pool::api::{Client, Event, RunRequest, VmStart};
use overlay_pool::vm::{Language, VmSettings};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{HELLO, LOOK, PATIENCE, QUIET, hello, of_settings};
use crate::bench::Error;

/// `overlay-pool serve` with one VM that waits. Dropped, it is killed.
pub(super) struct Server {
    child: Child,
    pub(super) socket: PathBuf,
    log: PathBuf,
    language: Language,
}

impl Server {
    pub(super) fn start(
        dir: &Path,
        settings: &VmSettings,
        language: Language,
    ) -> Result<Self, Error> {
        let (socket, log) = (dir.join("vms.sock"), dir.join("vms.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-pool"));
        command.args(["serve", "--vms", "3", "--language", &format!("{language}=1")]);
        command.arg("--socket").arg(&socket).arg("--dir").arg(&settings.dir);
        of_settings(command.as_std_mut(), settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.kill_on_drop(true).spawn()?;
        Ok(Self { child, socket, log, language })
    }

    /// Waits until a VM waits, and the machine has been left alone for a while.
    pub(super) async fn ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let series = format!("overlay_pool_vms_ready{{language=\"{}\"}} 1", self.language);
        while !self.metrics().await.is_ok_and(|text| text.lines().any(|line| line == series)) {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failed(&status.to_string()));
            }
            if Instant::now() > deadline {
                return Err(self.failed("no VM waits"));
            }
            sleep(LOOK).await;
        }
        sleep(QUIET).await;
        Ok(())
    }

    /// How long the first line of a program's output takes, by a client in this process.
    pub(super) async fn first_line(&self) -> Result<Duration, Error> {
        let client = Client::new(&self.socket);
        let code = hello(self.language);
        let request = RunRequest { code, ..RunRequest::default() }.of(self.language.as_str());
        let begin = Instant::now();
        let mut running = client.execute(&request).await?;
        let (mut first, mut said, mut started) = (None, Vec::new(), None);
        while let Some(event) = running.next().await? {
            match event {
                Event::Begun { start, .. } => started = Some(start),
                Event::Stdout { data } => {
                    first.get_or_insert_with(|| begin.elapsed());
                    said.extend(data.into_bytes().ok_or("no base 64")?);
                }
                Event::Failed { problem } => return Err(problem.detail.into()),
                _ => {}
            }
        }
        // What was measured must be what it is said to be.
        if started != Some(VmStart::Warm) || said != format!("{HELLO}\n").into_bytes() {
            return Err(format!("a VM was {started:?}, and said {said:?}").into());
        }
        first.ok_or_else(|| "no output came".into())
    }

    /// Ends it, as a service manager does.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(std::fs::remove_file(&self.log)?),
            Ok(Ok(status)) => Err(self.failed(&status.to_string())),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(self.failed("it doesn't end")),
        }
    }

    async fn metrics(&self) -> Result<String, Error> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let request = b"GET /metrics HTTP/1.1\r\nhost: pool\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// An error with the last that the server said.
    fn failed(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = log.lines().last().unwrap_or("it said nothing");
        format!("overlay-pool serve: {what}: {said}").into()
    }
}
