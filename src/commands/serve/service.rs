//! A server's life: from its first signal to its last.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::api::{Access, AccessError, LEASES, Limits, Server, VmLimits, look_again};
#[cfg(feature = "images")]
use overlay_pool::images::Store;
use overlay_pool::place::{can_confine, misfit, remove_hidden};
use overlay_pool::vm::{Measure, VmManager};
use overlay_pool::{OverlayPool, PREFIX};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::field::display;

use super::manager;
#[cfg(feature = "images")]
use super::notes::Notes;
use super::options::Settings;
use super::watchdog::Watchdog;
use crate::commands::exit::Exit;
use crate::commands::failure::{self, Failure};
use crate::commands::trusted;

/// How long clients wait for a server that starts, before they are told to come again: the first one of
/// a socket unit is what starts it. And how long a server that ends waits for a store.
const GRACE: Duration = Duration::from_secs(5);

/// A pool and who may use it how.
#[derive(Debug)]
pub(super) struct Service {
    pool: Arc<OverlayPool>,
    access: Arc<Access>,
    limits: Limits,
    /// Where targets may lie, but for the pool's own place.
    targets: Vec<PathBuf>,
    leases: PathBuf,
    vms: Option<(Arc<VmManager>, VmLimits)>,
    #[cfg(feature = "images")]
    registry: Option<Arc<super::images::Images>>,
    /// What base images are in, as far as that is known at the start.
    #[cfg(feature = "images")]
    stores: Vec<Store>,
    #[cfg(feature = "images")]
    notes: Arc<Notes>,
}

impl Service {
    pub(super) fn new(settings: Settings) -> Result<Self, Failure> {
        if !can_confine() {
            let cause = "without openat2 no path can be kept below its directory";
            let advice = "run it on Linux 5.6 or later, in a sandbox (seccomp) that allows openat2";
            return Err(Failure::new(Exit::Failed, cause, advice));
        }
        #[cfg(feature = "images")]
        let (registry, by_leases) = (settings.registry.map(Arc::new), settings.prune_by_leases);
        let Settings { pool, limits, mut targets, images, leases, bases, vms, .. } = settings;
        let leases = leases.unwrap_or_else(|| pool.pool_dir.join(LEASES));
        if targets.is_empty() {
            make_place(&pool.pool_dir)?;
            targets.push(pool.pool_dir.clone());
        }
        let images: Vec<_> = images.into_iter().collect();
        #[cfg(feature = "images")]
        let store = registry.as_ref().map(|registry| registry.store.path().to_owned());
        #[cfg(feature = "images")]
        let images: Vec<_> = images.into_iter().chain(store).collect();
        #[cfg(feature = "images")]
        let stores = {
            let named = bases.iter().filter_map(|base| Store::by_name(&base.path));
            let stores: Vec<_> =
                images.iter().filter_map(|path| Store::at(path)).chain(named).collect();
            recover(&stores);
            stores
        };
        let access = Access::new(&targets, &images, bases).map_err(no_directory)?;
        #[cfg(feature = "images")]
        let notes = Arc::new(Notes::new(&pool, &targets, &leases, by_leases));
        #[cfg(feature = "images")]
        {
            if let Some(registry) = &registry {
                notes.write(&registry.store)?;
            }
            let told = Arc::clone(&notes);
            access.tell_of_bases(move |base| told.tell_of(base));
            stores.iter().flat_map(Store::unfinished).for_each(|path| access.hide(&path));
        }
        // By default they are below --dir, where targets may lie too.
        #[cfg(feature = "images")]
        if let Some(registry) = &registry {
            access.keep_out(registry.store.path());
        }
        if let Some((settings, _)) = &vms {
            access.keep_out(&settings.base_images_dir);
            access.keep_out(&settings.states());
        }
        targets.retain(|targets| *targets != pool.pool_dir);
        let pool = Arc::new(OverlayPool::new(pool)?);
        let vms = vms.map(|(settings, limits)| (Arc::new(VmManager::new(settings)), limits));
        Ok(Self {
            pool,
            access: Arc::new(access),
            limits,
            targets,
            leases,
            vms,
            #[cfg(feature = "images")]
            registry,
            #[cfg(feature = "images")]
            stores,
            #[cfg(feature = "images")]
            notes,
        })
    }

    /// Serves until it is told to end, or the server fails.
    pub(super) async fn run(
        self,
        listener: std::os::unix::net::UnixListener,
        metrics: Option<std::net::TcpListener>,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Failed, error, "");
        let mut signals = Signals::new().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let socket = address.as_pathname().map(|socket| display(socket.display()));
        tracing::info!(socket, "listening");

        let (pool, access) = (Arc::clone(&self.pool), Arc::clone(&self.access));
        let end = Arc::new(Notify::new());
        let ended = Arc::clone(&end);
        let mut server = Server::new(pool, access, self.limits).with_leases(&self.leases);
        if let Some((manager, limits)) = &self.vms {
            server = server.with_vms(Arc::clone(manager), *limits);
        }
        if let Some(metrics) = metrics {
            server = server.with_metrics(TcpListener::from_std(metrics).map_err(failed)?);
        }
        let serve = server.serve(listener, async move { ended.notified().await });
        let (begun, begins) = oneshot::channel();
        let mut serving = tokio::spawn(async move {
            match timeout(GRACE, begins).await {
                // It ends before it has begun: who waits is left to the next one on the socket.
                Ok(Err(_)) => Ok(()),
                Ok(Ok(())) | Err(_) => serve.await,
            }
        });

        let path = address.as_pathname();
        let served = self.attend(&mut signals, &mut serving, begun, path).await;
        manager::stopping();
        let wind_down = async {
            end.notify_one();
            if !serving.is_finished() {
                let _ = (&mut serving).await;
            }
            if let Some((manager, _)) = &self.vms {
                manager.stop().await;
            }
            self.pool.stop().await;
            #[cfg(feature = "images")]
            {
                let notes = Arc::clone(&self.notes);
                // A store that doesn't answer keeps its note.
                let _ = timeout(GRACE, spawn_blocking(move || notes.withdraw())).await;
            }
        };
        tokio::select! {
            () = wind_down => {}
            () = signals.end() => tracing::warn!("told again to end: requests are given up"),
        }
        served
    }

    /// Starts the pool, says that it has begun, and looks after it until it is to end.
    async fn attend(
        &self,
        signals: &mut Signals,
        serving: &mut JoinHandle<io::Result<()>>,
        begun: oneshot::Sender<()>,
        socket: Option<&Path>,
    ) -> Result<(), Failure> {
        tokio::select! {
            () = self.try_targets() => {}
            () = signals.end() => return Ok(()),
        }
        // None shall be missing at the start.
        #[cfg(feature = "images")]
        if let Some(images) = &self.registry {
            tokio::select! {
                () = images.pull_missing() => {}
                () = signals.end() => return Ok(()),
                served = &mut *serving => return Err(unserved(served)),
            }
        }
        tokio::select! {
            started = self.pool.start(Some(self.access.bases())) => started?,
            () = signals.end() => return Ok(()),
            served = &mut *serving => return Err(unserved(served)),
        }
        tokio::select! {
            started = self.start_vms() => started?,
            () = signals.end() => return Ok(()),
            served = &mut *serving => return Err(unserved(served)),
        }
        let _ = begun.send(());
        self.warn_of_images();
        manager::ready(&self.status());
        // It runs beside this, and shall say nothing before.
        let _watchdog = socket.and_then(|socket| Watchdog::start(socket.to_owned()));
        #[cfg(feature = "images")]
        let keeper = self
            .registry
            .as_ref()
            .map(|images| images.keep(Arc::clone(&self.pool), Arc::clone(&self.access)));
        loop {
            tokio::select! {
                told = signals.next() => if told == Told::End { return Ok(()) },
                served = &mut *serving => return Err(unserved(served)),
            }
            tracing::info!("rescan");
            manager::reloading();
            let (pool, access) = (Arc::clone(&self.pool), Arc::clone(&self.access));
            #[cfg(feature = "images")]
            let stores = self.stores.clone();
            // A disk that doesn't answer is in nobody else's way.
            let mut looking = tokio::task::spawn_blocking(move || {
                #[cfg(feature = "images")]
                recover(&stores);
                look_again(&pool, &access)
            });
            tokio::select! {
                looked = &mut looking => if let Ok(Err(error)) = looked {
                    tracing::warn!(%error, "no rescan");
                },
                () = signals.end() => return Ok(()),
            }
            self.warn_of_images();
            #[cfg(feature = "images")]
            if let Some(keeper) = &keeper {
                keeper.look();
            }
            manager::ready(&self.status());
        }
    }

    async fn start_vms(&self) -> Result<(), Failure> {
        let Some((manager, _)) = &self.vms else { return Ok(()) };
        let settings = manager.settings();
        for directory in [&settings.base_images_dir, &settings.states()] {
            trusted::expect(directory, Exit::Failed)?;
        }
        manager.start().await.map_err(|error| Failure::new(Exit::Failed, error, ""))?;
        for Measure { what, in_force, found, advice, .. } in manager.containment() {
            if in_force {
                tracing::info!("{what}: {found}");
            } else {
                tracing::warn!("{what}: {found}; {advice}");
            }
        }
        tracing::info!(vms = settings.max_concurrent_vms, "VMs can be asked for");
        Ok(())
    }

    /// Removes what killed ones left among the targets, and warns if the pool's overlays can't be
    /// moved there as they are.
    async fn try_targets(&self) {
        let makes_ahead = self.pool.config().pool_size() >= 1;
        let (place, targets) = (self.pool.config().pool_dir.clone(), self.targets.clone());
        let tried = spawn_blocking(move || {
            for targets in &targets {
                if makes_ahead {
                    warn_of_misfit(&place, targets);
                } else {
                    remove_hidden(targets);
                }
            }
        });
        let _ = tried.await;
    }

    fn warn_of_images(&self) {
        for note in self.access.notes() {
            tracing::warn!("{note}");
        }
    }

    fn status(&self) -> String {
        let ready = self.pool.stats().ready;
        let count: usize = ready.values().sum();
        format!("{count} overlays of {} base images are ready", ready.len())
    }
}

/// What a service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    End,
    Rescan,
}

/// The signals that tell it.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Caught, so that a file over its limit (`RLIMIT_FSIZE`) is an error and not the end.
    _file_size: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Self {
            _file_size: signal(file_size)?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hang_up.recv() => Told::Rescan,
        }
    }

    /// Waits until the service is told to end. A rescan that it is told to do meanwhile is still
    /// to be done.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells where a pool can't move its overlays to, or not as they would be made there.
fn warn_of_misfit(pool_dir: &Path, targets: &Path) {
    match misfit(pool_dir, PREFIX, targets) {
        Ok(None) => {}
        Ok(Some(misfit)) => tracing::warn!(targets = %targets.display(), "{misfit}"),
        Err((path, error)) => {
            tracing::warn!(directory = %path.display(), %error, "no overlay can be made there");
        }
    }
}

/// Has no image missing that somebody who prunes moved aside and was killed.
#[cfg(feature = "images")]
fn recover(stores: &[Store]) {
    for store in stores {
        if let Err(error) = store.recover() {
            tracing::warn!(store = %store.path().display(), %error, "images not put back");
        }
    }
}

/// Makes the pool's place, if it is missing, as the pool itself does.
fn make_place(pool_dir: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(pool_dir);
    made.map_err(|error| {
        let cause = format!("pool directory {}: {error}", pool_dir.display());
        Failure::new(Exit::Failed, cause, "name another with --dir or OVERLAY_POOL_DIR")
    })
}

fn no_directory(error: AccessError) -> Failure {
    let advice = match &error {
        AccessError::Io { source, .. } => failure::system(source),
        _ => "",
    };
    Failure::new(Exit::Failed, error, advice)
}

fn unserved(served: Result<io::Result<()>, JoinError>) -> Failure {
    let cause = match served {
        Ok(Ok(())) => "it ended by itself".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::new(Exit::Failed, format!("the server can't go on: {cause}"), "")
}
