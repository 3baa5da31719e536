//! The `storage-daemon` creator: one `qemu-storage-daemon` for the pool's life.
//!
//! The daemon talks QMP over a socketpair that it has as its standard input: there is no path,
//! nothing to remove, and nobody else can connect. A daemon that died or hangs is replaced by
//! the next creation.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::{CreatorError, MAX_IN_FLIGHT, path_for_child};
use crate::image::Overlay;
use crate::process;
use crate::qmp::{Qmp, QmpError};

/// How much of what a daemon said before it failed to start an error repeats, in bytes.
const MAX_MESSAGE: u64 = 1000;

/// Asks a `qemu-storage-daemon` to make overlays, several at a time.
#[derive(Debug)]
pub struct StorageDaemon {
    inner: Arc<Inner>,
    /// A permit for each creation, held until the daemon is done with it.
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    timeout: Duration,
    /// The daemon in use, started by the first who needs it; none when stopped.
    current: Mutex<Option<Arc<Slot>>>,
}

/// A place for one daemon.
type Slot = OnceCell<Daemon>;

impl StorageDaemon {
    /// A creator that runs `program` and gives each creation `timeout`; half of it is given to
    /// the daemon at hand, the other half to its replacement.
    #[must_use]
    pub(super) fn new(program: &Path, timeout: Duration) -> Self {
        let inner = Inner { program: program.to_owned(), timeout, current: Mutex::default() };
        let permits = Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize));
        Self { inner: Arc::new(inner), permits }
    }

    pub(super) async fn start(&self) -> Result<(), CreatorError> {
        let slot = Arc::new(Slot::new());
        let daemon = Daemon::start(&self.inner.program);
        let limit = self.inner.timeout;
        match timeout(limit, slot.get_or_try_init(|| daemon)).await {
            Ok(started) => started.map(drop)?,
            Err(_) => return Err(CreatorError::Timeout(limit)),
        }
        *self.inner.current() = Some(slot);
        Ok(())
    }

    pub(super) async fn write(
        &self,
        overlay: &Arc<Overlay>,
        file: &Arc<File>,
    ) -> Result<(), CreatorError> {
        let limit = self.inner.timeout;
        let created = timeout(limit, self.create(overlay, file)).await;
        created.unwrap_or(Err(CreatorError::Timeout(limit)))
    }

    async fn create(&self, overlay: &Arc<Overlay>, file: &Arc<File>) -> Result<(), CreatorError> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(CreatorError::Stopped);
        };
        let (inner, overlay, file) =
            (Arc::clone(&self.inner), Arc::clone(overlay), Arc::clone(file));
        // A task of its own, so that a cancelled caller leaves neither job nor node behind.
        let creation = tokio::spawn(async move {
            let _permit = permit;
            match inner.attempt(&overlay, &file).await {
                Err(error) if is_broken(&error) => inner.attempt(&overlay, &file).await,
                result => result,
            }
        });
        creation.await.map_err(|_| CreatorError::Stopped)?
    }

    pub(super) async fn stop(&self) {
        let slot = self.inner.current().take();
        if let Some(daemon) = slot.as_ref().and_then(|slot| slot.get()) {
            daemon.kill().await;
        }
    }
}

impl Inner {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Slot>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, overlay: &Overlay, file: &File) -> Result<(), CreatorError> {
        let slot = self.current().clone().ok_or(CreatorError::Stopped)?;
        file.set_len(0)?; // a daemon that broke may have written
        let patience = self.timeout / 2;
        let creation = async {
            let daemon = slot.get_or_try_init(|| Daemon::start(&self.program)).await?;
            daemon.create(overlay, file).await
        };
        let result = timeout(patience, creation).await;
        let result = result.unwrap_or(Err(CreatorError::Timeout(patience)));
        if let Err(error) = &result
            && is_broken(error)
        {
            self.replace(&slot, error).await;
        }
        result
    }

    /// Ends a broken daemon and makes room for the next, unless somebody did so already.
    async fn replace(&self, broken: &Arc<Slot>, cause: &CreatorError) {
        {
            let mut current = self.current();
            if let Some(slot) = current.as_mut().filter(|slot| Arc::ptr_eq(slot, broken)) {
                *slot = Arc::default();
                tracing::warn!(%cause, "storage daemon replaced");
            }
        }
        // Its locks on our files end with it.
        if let Some(daemon) = broken.get() {
            daemon.kill().await;
        }
    }
}

/// Whether the daemon, rather than the overlay, is at fault.
fn is_broken(error: &CreatorError) -> bool {
    matches!(error, CreatorError::Timeout(_) | CreatorError::Daemon(QmpError::Closed(_)))
}

/// A running daemon.
#[derive(Debug)]
struct Daemon {
    qmp: Qmp,
    child: Mutex<Option<Child>>,
    killed: OnceCell<()>,
    next: AtomicU64,
}

impl Daemon {
    async fn start(program: &Path) -> Result<Self, CreatorError> {
        let spawn_failed = |source| CreatorError::Spawn { program: program.to_owned(), source };
        let (ours, theirs) = StdUnixStream::pair().map_err(spawn_failed)?;
        ours.set_nonblocking(true).map_err(spawn_failed)?;
        let mut command = Command::new(program);
        command.args(["--chardev", "socket,id=qmp,fd=0", "--monitor", "chardev=qmp"]);
        command.current_dir("/"); // so that it keeps no filesystem busy
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = process::spawn(command).await.map_err(spawn_failed)?;
        let stream = UnixStream::from_std(ours).map_err(spawn_failed)?;
        match Qmp::connect(stream).await {
            Ok(qmp) => {
                if let Some(stderr) = child.stderr.take() {
                    tokio::spawn(log(stderr));
                }
                let child = Mutex::new(Some(child));
                Ok(Self { qmp, child, killed: OnceCell::new(), next: AtomicU64::new(0) })
            }
            Err(error) => Err(start_failed(child, &error).await),
        }
    }

    /// Makes one overlay. To be run to its end, or to the daemon's.
    async fn create(&self, overlay: &Overlay, file: &File) -> Result<(), CreatorError> {
        let Some(backing) = overlay.backing().to_str() else {
            return Err(CreatorError::NotUtf8(overlay.backing().to_owned()));
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (node, job) = (format!("overlay-{number}"), format!("create-{number}"));
        let profile = overlay.profile();

        let concluded = self.qmp.job_concluded(&job);
        let added = self.qmp.execute(
            "blockdev-add",
            &json!({ "node-name": node, "driver": "file", "filename": path_for_child(file)? }),
        );
        let created = self.qmp.execute(
            "blockdev-create",
            &json!({ "job-id": job, "options": {
                "driver": "qcow2",
                "file": node,
                "version": "v3",
                "size": overlay.virtual_size(),
                "backing-file": backing,
                "backing-fmt": overlay.format().as_str(),
                "cluster-size": profile.cluster_size(),
                "extended-l2": profile.extended_l2(),
                "lazy-refcounts": profile.lazy_refcounts(),
            }}),
        );
        if let Err(error) = added.await {
            self.qmp.forget_job(&job);
            return Err(error.into());
        }
        let ended = match created.await {
            Ok(_) => {
                concluded.await?;
                Ok(self.end_job(&job))
            }
            Err(error) => {
                self.qmp.forget_job(&job);
                Err(error)
            }
        };
        // Sent with the commands that end the job: the daemon takes them in this order.
        let deleted = self.qmp.execute("blockdev-del", &json!({ "node-name": node }));
        let result = match ended {
            Ok(ended) => ended.await,
            Err(error) => Err(error),
        };
        deleted.await?;
        Ok(result?)
    }

    /// Dismisses a concluded job now; the future says how it ended. Its error stands in the list
    /// of jobs and nowhere else.
    fn end_job(&self, job: &str) -> impl Future<Output = Result<(), QmpError>> + Send {
        let jobs = self.qmp.execute("query-jobs", &json!({}));
        let dismissed = self.qmp.execute("job-dismiss", &json!({ "id": job }));
        async move {
            let jobs = jobs.await?;
            dismissed.await?;
            let ours = jobs.as_array().into_iter().flatten().find(|entry| entry["id"] == job);
            match ours.map(|entry| &entry["error"]) {
                None => Err(QmpError::Job(format!("the job {job} is not in the list of jobs"))),
                Some(Value::String(message)) => Err(QmpError::Job(message.clone())),
                Some(_) => Ok(()),
            }
        }
    }

    /// Kills the daemon and waits for its end, whoever asked first.
    async fn kill(&self) {
        let kill = || async {
            let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(mut child) = child {
                let _ = child.kill().await;
            }
        };
        self.killed.get_or_init(kill).await;
    }
}

/// What a daemon said that ended before it greeted us.
async fn start_failed(mut child: Child, error: &QmpError) -> CreatorError {
    let _ = child.start_kill();
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MAX_MESSAGE).read_to_end(&mut message).await;
    }
    let status = child.wait().await.map_or_else(|error| error.to_string(), |s| s.to_string());
    let message = format!("{error}: {}", String::from_utf8_lossy(&message).trim());
    CreatorError::Failed { program: "qemu-storage-daemon", status, message }
}

async fn log(stderr: tokio::process::ChildStderr) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::warn!(line, "storage daemon says");
    }
}
