//! The base images of registries that a server keeps: it pulls them, and looks whether their tags
//! have moved.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use overlay_pool::OverlayPool;
use overlay_pool::api::{Access, look_again};
use overlay_pool::image::BaseRef;
use overlay_pool::images::{Digest, ImageError, ImageRef, Store};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

use crate::commands::exit::Exit;
use crate::commands::failure::Failure;
use crate::commands::in_use::in_use;

/// When what failed is tried again, at the latest.
const RETRY: Duration = Duration::from_secs(60);
/// How long a new base image's shelf may take to fill before its name leads there anyway.
const FILL: Duration = Duration::from_secs(60);
/// How many are pulled at once at the start.
const AT_ONCE: usize = 4;
const LOOK: Duration = Duration::from_millis(20);

/// What a server was told of registries.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) store: Store,
    pub(super) told: Vec<ImageRef>,
    /// After how long is looked whether tags have moved.
    pub(super) refresh: Option<Duration>,
    /// How many bytes they may take.
    pub(super) limit: Option<u64>,
    /// How a pull is asked for, but for the image.
    pub(super) options: Vec<OsString>,
    /// What the pool was last given by each name.
    pub(super) served: Mutex<BTreeMap<PathBuf, Digest>>,
}

/// Looks after the images from time to time. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Keeper {
    again: Arc<Notify>,
    task: AbortHandle,
}

impl Keeper {
    /// Has it look now.
    pub(super) fn look(&self) {
        self.again.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Images {
    /// The base images by their names, there or not.
    pub(super) fn bases(&self) -> impl Iterator<Item = BaseRef> {
        let base =
            |image: &ImageRef| BaseRef { path: self.store.name(image), format: image.format };
        self.told.iter().map(base)
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Digest>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pulls what isn't there at all. What can't be had is a warning.
    pub(super) async fn pull_missing(&self) {
        let missing = self.told.iter().filter(|image| self.store.find(image).is_none());
        let pulls = stream::iter(missing).for_each_concurrent(AT_ONCE, async |image| {
            let pulled = async {
                let _holding = self.store.hold().await?;
                let digest = self.fetch(image).await?;
                self.store.link(image, &digest)?;
                Ok::<_, Failure>(digest)
            };
            match pulled.await {
                Ok(digest) => tracing::info!(%image, %digest, "pulled"),
                Err(failure) => tracing::warn!("{failure}"),
            }
        });
        pulls.await;
        let names = self.told.iter().map(|image| (self.store.name(image), self.store.find(image)));
        let found = names.filter_map(|(name, digest)| Some((name, digest?))).collect();
        *self.served() = found;
    }

    /// Begins to look after them, at once and then from time to time.
    pub(super) fn keep(self: &Arc<Self>, pool: Arc<OverlayPool>, access: Arc<Access>) -> Keeper {
        let again = Arc::new(Notify::new());
        let (images, told) = (Arc::clone(self), Arc::clone(&again));
        let keeping = tokio::spawn(async move {
            loop {
                let all_well = images.look(&pool, &access).await;
                tracing::debug!(all_well, "looked for other images");
                images.prune(&pool, all_well).await;
                let retry = images.refresh.map_or(RETRY, |refresh| refresh.min(RETRY));
                let next = if all_well { images.refresh } else { Some(retry) };
                tokio::select! {
                    () = told.notified() => {}
                    () = sleep(next.unwrap_or_default()), if next.is_some() => {}
                }
            }
        });
        Keeper { again, task: keeping.abort_handle() }
    }

    /// Looks at each; says whether all could be had.
    async fn look(&self, pool: &Arc<OverlayPool>, access: &Arc<Access>) -> bool {
        let mut all_well = true;
        for image in &self.told {
            if let Err(failure) = self.renew(image, pool, access).await {
                tracing::warn!("{failure}");
                all_well = false;
            }
        }
        all_well
    }

    /// Has an image that moved, first a full shelf of it, then its name, and then none of the old
    /// one.
    async fn renew(
        &self,
        image: &ImageRef,
        pool: &Arc<OverlayPool>,
        access: &Arc<Access>,
    ) -> Result<(), Failure> {
        let _holding = self.store.hold().await?;
        let new = self.fetch(image).await?;
        let path = self.store.image(&new);
        let resolved = path.canonicalize().unwrap_or_else(|_| path.clone());
        // Its name may lead there by now: another server follows it too.
        if pool.bases().iter().all(|kept| kept.base.path != resolved) {
            let path = pool.add_base(BaseRef { path, format: image.format })?;
            filled(pool, &path).await;
        }
        // Touched where it leads there already.
        let name = self.store.link(image, &new)?;
        let (old, is_kept) = {
            let mut served = self.served();
            let old = served.insert(name, new);
            (old, served.values().any(|kept| Some(*kept) == old))
        };
        if old == Some(new) {
            return Ok(());
        }
        tracing::info!(%image, digest = %new, "the image is another one now");
        let (pool, access) = (Arc::clone(pool), Arc::clone(access));
        let old = old.filter(|_| !is_kept);
        let old = old.map(|old| BaseRef { path: self.store.image(&old), format: image.format });
        let looked = spawn_blocking(move || {
            look_again(&pool, &access)?;
            old.map(|old| pool.remove_base(old)).transpose()
        });
        if let Ok(Err(error)) = looked.await {
            tracing::warn!(%error, "no rescan");
        }
        Ok(())
    }

    /// Has the image that a reference means now in the store, by a process of its own: what a
    /// registry sends is nothing for the server's.
    async fn fetch(&self, image: &ImageRef) -> Result<Digest, Failure> {
        let failed =
            |cause: String| Failure::new(Exit::Failed, format!("image {image}: {cause}"), "");
        let mut command = Command::new("/proc/self/exe");
        command.args(["images", "pull", "--json", "--unnamed", "--until-stdin-ends"]);
        command.args(&self.options).arg("--store").arg(self.store.path());
        if image.link().extension().is_some_and(|extension| extension == "raw") {
            command.arg("--raw");
        }
        command.arg(image.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        // It ends when this does.
        let held = child.stdin.take();
        let output = child.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        drop(held);
        let facts: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(digest) = facts["images"][0]["digest"].as_str() {
            return digest.parse().map_err(|error| failed(format!("{error}")));
        }
        if let Some(message) = facts["failures"][0]["message"].as_str() {
            return Err(Failure::new(Exit::Failed, message, ""));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().next_back().unwrap_or_default();
        Err(failed(format!("the pull ended with {}: {last}", output.status)))
    }

    /// Removes images that nothing uses: those without a name, and those over the limit; and what
    /// broken-off pulls left, unless one of them may be gone on with.
    async fn prune(&self, pool: &Arc<OverlayPool>, all_well: bool) {
        let told = self.told.iter().filter_map(|image| self.store.find(image));
        let told: Vec<_> = told.map(|digest| self.store.image(&digest)).collect();
        let (store, limit, pool) = (self.store.clone(), self.limit, Arc::clone(pool));
        let pruned = spawn_blocking(move || {
            let in_use = || {
                let kept = pool.bases().into_iter().map(|kept| kept.base.path);
                let mine: Vec<_> = kept.chain(told.iter().cloned()).collect();
                let mut in_use = in_use(&store, &mine)?;
                in_use.extend(mine);
                Ok::<BTreeSet<_>, ImageError>(in_use)
            };
            store.prune(limit, in_use, all_well, false)
        });
        match pruned.await {
            Ok(Ok(pruned)) => {
                for one in pruned {
                    tracing::info!(digest = %one.image.digest, reason = ?one.reason, "image pruned");
                }
            }
            // Another server or a command is at it.
            Ok(Err(error @ ImageError::Busy { .. })) => tracing::debug!(%error, "not pruned"),
            Ok(Err(error)) => tracing::warn!(%error, "images not pruned"),
            Err(error) => tracing::warn!(%error, "images not pruned"),
        }
    }
}

/// Waits until a base image's shelf is full, as far as it will be.
async fn filled(pool: &OverlayPool, path: &Path) {
    let wanted = usize::try_from(pool.config().pool_size()).unwrap_or(0);
    let deadline = Instant::now() + FILL;
    while Instant::now() < deadline && !pool.is_paused() {
        let bases = pool.bases();
        let shelf = bases.iter().find(|kept| kept.base.path == path);
        if shelf.is_none_or(|shelf| shelf.ready >= wanted) {
            return;
        }
        sleep(LOOK).await;
    }
}
