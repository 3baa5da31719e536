//! Child processes that die with their parent.
//!
//! The kernel's parent-death signal fires when the *thread* that started the child ends, and the
//! threads of an async runtime come and go. So one thread of this process, which never ends,
//! starts all children.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::process::{Child, Command};

use crate::sys;
use crate::worker::Worker;

static SPAWNER: Mutex<Option<Arc<Worker>>> = Mutex::new(None);

/// The thread that starts children; if it can't be had now, the next asks for it again.
fn spawner() -> io::Result<Arc<Worker>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(worker) = &*spawner {
        return Ok(Arc::clone(worker));
    }
    let worker = Arc::new(Worker::start("overlay-pool-spawn")?);
    Ok(Arc::clone(spawner.insert(worker)))
}

/// Starts a child that is killed when it is dropped, and when this process ends in any way.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    command.kill_on_drop(true);
    sys::die_with_parent(&mut command);

    // A child that nobody waits for any more is dropped there, and so killed.
    spawner()?.run(async move { command.spawn() }).await?
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
