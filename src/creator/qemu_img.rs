//! The `qemu-img` creator: a process per overlay.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{BoxFuture, Creator, CreatorError, MAX_IN_FLIGHT};
use crate::image::Overlay;
use crate::process;

/// The longest message of `qemu-img` that an error repeats, in characters.
const MAX_MESSAGE: usize = 1000;

/// Runs `qemu-img create` for each overlay.
#[derive(Debug)]
pub struct QemuImg {
    program: PathBuf,
    timeout: Duration,
    in_flight: Semaphore,
}

impl QemuImg {
    /// A creator that runs `program` and gives each run `timeout`.
    #[must_use]
    pub fn new(program: &Path, timeout: Duration) -> Self {
        Self { program: program.to_owned(), timeout, in_flight: Semaphore::new(MAX_IN_FLIGHT) }
    }

    async fn run(&self, command: Command) -> Result<Output, CreatorError> {
        let spawn_failed = |source| CreatorError::Spawn { program: self.program.clone(), source };
        // Dropped on cancel and on time-out, the child is killed and reaped.
        let run = async {
            let child = process::spawn(command).await.map_err(spawn_failed)?;
            Ok(child.wait_with_output().await?)
        };
        timeout(self.timeout, run).await.unwrap_or(Err(CreatorError::Timeout(self.timeout)))
    }

    fn command(&self, stdin: impl Into<Stdio>) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

impl Creator for QemuImg {
    fn start(&self) -> BoxFuture<'_, Result<(), CreatorError>> {
        Box::pin(async {
            let mut command = self.command(Stdio::null());
            command.arg("--version");
            check(&self.run(command).await?)
        })
    }

    fn write<'a>(
        &'a self,
        overlay: &'a Arc<Overlay>,
        file: &'a Arc<File>,
    ) -> BoxFuture<'a, Result<(), CreatorError>> {
        Box::pin(async move {
            let Ok(_permit) = self.in_flight.acquire().await else {
                return Err(CreatorError::Stopped);
            };
            let mut command = self.command(file.try_clone()?);
            // -u: the base was judged already, and QEMU shall not open what it refers to.
            command.args(["create", "-q", "-u", "-f", "qcow2"]);
            command.args(["-F", overlay.format().as_str(), "-b"]).arg(overlay.backing());
            command.args(["-o", &overlay.profile().qemu_img_options()]);
            command.args(["/proc/self/fd/0", &overlay.virtual_size().to_string()]);
            check(&self.run(command).await?)
        })
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn check(output: &Output) -> Result<(), CreatorError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(CreatorError::Failed {
        program: "qemu-img",
        status: output.status.to_string(),
        message: message.trim().chars().take(MAX_MESSAGE).collect(),
    })
}
