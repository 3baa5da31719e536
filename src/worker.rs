//! A thread aside from those of the async runtime, for work that blocks.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use rustix::process::setpriority_process;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A tenth of the processor beside one other thread, and all of it beside none (`sched(7)`).
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// One thread, which does one thing after the other. It ends when this is dropped, after what it
/// was given.
///
/// Tokio's own threads for blocking work panic, or never come to it, if there can be no new thread;
/// this one is there or is an error.
#[derive(Debug)]
pub(crate) struct Worker(mpsc::Sender<Job>);

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(name: &str) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self(sender))
    }

    /// Has the thread give way to others that want its processor.
    pub(crate) fn give_way(self) -> Self {
        // A thread that can't is as any other.
        let _ = self.0.send(Box::new(|| _ = setpriority_process(None, NICE)));
        self
    }

    /// Runs a future there, on this task's runtime; to its end, also if nobody waits for it any
    /// more.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        let (runtime, (done, ended)) = (Handle::current(), oneshot::channel());
        let job = move || drop(done.send(runtime.block_on(work)));
        let gone = || io::Error::other("the thread has ended");
        self.0.send(Box::new(job)).map_err(|_| gone())?;
        ended.await.map_err(|_| gone())
    }
}

/// A worker that is started when it is first needed, and kept.
#[derive(Debug)]
pub(crate) struct Kept {
    name: &'static str,
    worker: Mutex<Option<Arc<Worker>>>,
}

impl Kept {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, worker: Mutex::new(None) }
    }

    /// The worker; if there can be none now, the next asks for it again.
    pub(crate) fn get(&self) -> io::Result<Arc<Worker>> {
        let mut kept = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*kept {
            return Ok(Arc::clone(worker));
        }
        let worker = Arc::new(Worker::start(self.name)?);
        Ok(Arc::clone(kept.insert(worker)))
    }
}
