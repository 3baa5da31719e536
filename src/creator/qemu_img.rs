//! The `qemu-img` creator: a process per overlay.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::{CreatorError, MAX_IN_FLIGHT};
use crate::image::Overlay;
use crate::process;

/// The overlay's file, as a `qemu-img` names it that has it as its standard input.
const FILE: &str = "/proc/self/fd/0";
/// How much of what `qemu-img` says an error repeats, in bytes.
const MAX_MESSAGE: u64 = 1000;

/// Runs `qemu-img create` for each overlay.
#[derive(Debug)]
pub struct QemuImg {
    program: PathBuf,
    timeout: Duration,
    /// A permit for each process, held until it is reaped.
    permits: Arc<Semaphore>,
    stopped: watch::Sender<bool>,
}

impl QemuImg {
    /// A creator that runs `program` and gives each run `timeout`.
    #[must_use]
    pub(super) fn new(program: &Path, timeout: Duration) -> Self {
        Self {
            program: program.to_owned(),
            timeout,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
            stopped: watch::Sender::new(false),
        }
    }

    pub(super) async fn start(&self) -> Result<(), CreatorError> {
        let mut command = self.command(Stdio::null());
        command.arg("--version");
        self.run(command).await
    }

    pub(super) async fn write(&self, overlay: &Overlay, file: &File) -> Result<(), CreatorError> {
        let mut command = self.command(file.try_clone()?);
        // -u: the base was judged already, and QEMU shall not open what it refers to.
        command.args(["create", "-q", "-u", "-f", "qcow2"]);
        command.args(["-F", overlay.format().as_str(), "-b"]).arg(overlay.backing());
        command.args(["-o", &overlay.profile().qemu_img_options()]);
        command.args([FILE, &overlay.virtual_size().to_string()]);
        let created = timeout(self.timeout, self.run(command)).await;
        created.unwrap_or(Err(CreatorError::Timeout(self.timeout)))
    }

    /// Kills what runs, and waits for its end as long as for a creation.
    pub(super) async fn stop(&self) {
        self.stopped.send_replace(true);
        let _ = timeout(self.timeout, self.permits.acquire_many(MAX_IN_FLIGHT)).await;
    }

    fn command(&self, stdin: impl Into<Stdio>) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end, or kills it: when its time is over, when nobody waits for it any
    /// more, or when the creator is stopped.
    async fn run(&self, command: Command) -> Result<(), CreatorError> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(CreatorError::Stopped);
        };
        let (program, limit, mut stopped) =
            (self.program.clone(), self.timeout, self.stopped.subscribe());
        let (mut answer, result) = oneshot::channel();
        // A task of its own: whoever waits for the command may go before it has ended.
        tokio::spawn(async move {
            let _permit = permit;
            let mut child = match timeout(limit, process::spawn(command)).await {
                Ok(Ok(child)) => child,
                Ok(Err(source)) => {
                    return drop(answer.send(Err(CreatorError::Spawn { program, source })));
                }
                Err(_) => return drop(answer.send(Err(CreatorError::Timeout(limit)))),
            };
            let result = tokio::select! {
                ended = timeout(limit, end(&mut child)) => {
                    ended.unwrap_or(Err(CreatorError::Timeout(limit)))
                }
                _ = stopped.wait_for(|stopped| *stopped) => Err(CreatorError::Stopped),
                () = answer.closed() => Err(CreatorError::Stopped),
            };
            let _ = answer.send(result);
            // One that hangs in the kernel ends when the kernel lets it.
            let _ = child.kill().await;
        });
        result.await.unwrap_or(Err(CreatorError::Stopped))
    }
}

/// Waits for the end of a run, and for what it said.
async fn end(child: &mut Child) -> Result<(), CreatorError> {
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(MAX_MESSAGE);
        stderr.read_to_end(&mut message).await?;
        // A full pipe would keep it from ending.
        tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(failed(status, &message)) }
}

fn failed(status: ExitStatus, message: &[u8]) -> CreatorError {
    let message = String::from_utf8_lossy(message);
    let lines = message.lines().map(|line| {
        let said = line.trim().strip_prefix("qemu-img: ").unwrap_or(line.trim());
        said.strip_prefix(FILE).and_then(|said| said.strip_prefix(": ")).unwrap_or(said)
    });
    // It may not unlink the file, nor need it: whoever made the file removes it.
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("Error when deleting"));
    let message = lines.collect::<Vec<_>>().join("; ");
    super::full(&message).map_or_else(
        || CreatorError::Failed { program: "qemu-img", status: status.to_string(), message },
        CreatorError::Write,
    )
}
