//! Child processes that die with their parent.
//!
//! The kernel's parent-death signal fires when the *thread* that started the child ends, and the
//! threads of an async runtime come and go. So one thread of this process, which never ends,
//! starts all children.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::sys;

struct Request {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

/// The thread that starts children; where it can't be had now, the next asks for it again.
fn spawner() -> io::Result<mpsc::Sender<Request>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*spawner {
        return Ok(sender.clone());
    }
    let (sender, requests) = mpsc::channel::<Request>();
    thread::Builder::new().name("overlay-pool-spawn".to_owned()).spawn(move || {
        for Request { mut command, runtime, answer } in requests {
            let _guard = runtime.enter();
            // A child that nobody waits for any more is dropped here, and so killed.
            let _ = answer.send(command.spawn());
        }
    })?;
    Ok(spawner.insert(sender).clone())
}

/// Starts a child that is killed when it is dropped, and when this process ends in any way.
pub(crate) async fn spawn(command: Command) -> io::Result<Child> {
    spawn_with(command, Vec::new()).await
}

/// Like [`spawn`], with descriptors that the child has under the numbers they have here; this
/// process' own are closed.
pub(crate) async fn spawn_with(
    mut command: Command,
    descriptors: Vec<OwnedFd>,
) -> io::Result<Child> {
    if !descriptors.is_empty() {
        sys::inherit(&mut command, descriptors);
    }
    command.kill_on_drop(true);
    sys::die_with_parent(&mut command);

    let (answer, child) = oneshot::channel();
    let request = Request { command, runtime: Handle::current(), answer };
    spawner()?.send(request).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts child processes has ended")
}
