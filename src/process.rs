//! Child processes that die with their parent.
//!
//! The kernel's parent-death signal fires when the *thread* that started the child ends, and the
//! threads of an async runtime come and go. So one thread of this process, which never ends,
//! starts all children.

use std::io;

use tokio::process::{Child, Command};

use crate::sys;
use crate::worker::Kept;

/// The thread that starts children.
static SPAWNER: Kept = Kept::new("overlay-pool-spawn");

/// Starts a child that is killed when it is dropped, and when this process ends in any way.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    command.kill_on_drop(true);
    sys::die_with_parent(&mut command);

    // A child that nobody waits for any more is dropped there, and so killed.
    SPAWNER.get()?.run(async move { command.spawn() }).await?
}

/// Like [`spawn`], with descriptors that the child has under the numbers they have here; this
/// process' own are closed.
#[cfg(feature = "vm")]
pub(crate) async fn spawn_with(
    mut command: Command,
    descriptors: Vec<std::os::fd::OwnedFd>,
) -> io::Result<Child> {
    sys::inherit(&mut command, descriptors);
    spawn(command).await
}
