//! What the server has handed over to this driver.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::geteuid;
use tokio::sync::OnceCell;

use super::refusal::Refusal;
use crate::api::{Client, Label};
use crate::image::BaseRef;

/// The disks of this driver's volumes, which the server knows by the volumes' ids.
#[derive(Debug)]
pub(super) struct Leases {
    client: Client,
    /// What all of them are labelled with.
    owner: Label,
    /// How many there may be; 0 if nobody says how many.
    most: u64,
    /// Those that there are or may be, once the server was asked for them.
    known: OnceCell<Mutex<HashSet<Label>>>,
    /// Where those are that this driver had handed over, so that it needn't ask.
    places: Mutex<HashMap<Label, PathBuf>>,
}

impl Leases {
    pub(super) fn new(socket: PathBuf, owner: Label, most: u64) -> Self {
        let (known, places) = (OnceCell::new(), Mutex::default());
        Self { client: Client::new(socket), owner, most, known, places }
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// Whether the server answers, and its pool is started.
    pub(super) async fn is_ready(&self) -> bool {
        self.client.stats().await.is_ok()
    }

    /// Has a disk of `base` handed over. Says where its base image is.
    pub(super) async fn acquire(
        &self,
        id: &Label,
        base: BaseRef,
        disk: PathBuf,
        size: Option<u64>,
    ) -> Result<PathBuf, Refusal> {
        let is_new = self.count(id).await?;
        let acquired = self.client.lease(base, &disk, size, id, Some(&self.owner)).await;
        let acquired = acquired.map_err(Refusal::from).inspect_err(|refusal| {
            if is_new && refusal.is_final() {
                self.forget(id);
            }
        });
        let base = acquired?.base;
        locked(&self.places).insert(id.clone(), disk);
        Ok(base)
    }

    /// Whether this driver had a volume's disk handed over at `disk`, and didn't release it.
    pub(super) fn gave(&self, id: &Label, disk: &Path) -> bool {
        locked(&self.places).get(id).is_some_and(|place| place == disk)
    }

    /// Whether there is a volume's disk, which can be at `disk` alone.
    pub(super) async fn has(&self, id: &Label, disk: &Path) -> Result<bool, Refusal> {
        match self.client.disk(id).await? {
            Some(lease) if lease.target == disk => Ok(true),
            Some(lease) => Err(Refusal::Elsewhere { id: id.clone(), disk: lease.target }),
            None => {
                // It is gone by itself, or there never was one.
                self.forget(id);
                Ok(false)
            }
        }
    }

    /// Whether the disk, which isn't there, is recorded as this volume's; refuses if it is another one's.
    pub(super) async fn has_record(&self, id: &Label, disk: &Path) -> Result<bool, Refusal> {
        match self.list().await?.into_iter().find(|(_, place)| place == disk) {
            Some((owner, disk)) if owner != *id => Err(Refusal::Elsewhere { id: owner, disk }),
            found => Ok(found.is_some()),
        }
    }

    /// Whether anybody has the disk by a lease, whatever it is labelled with.
    pub(super) async fn has_any(&self, disk: &Path) -> Result<bool, Refusal> {
        Ok(self.client.disks(None).await?.iter().any(|lease| lease.target == disk))
    }

    /// Has a volume's disk removed from `disk`, if it is there.
    pub(super) async fn release(&self, id: &Label, disk: &Path) -> Result<(), Refusal> {
        self.client.release_at(id, disk).await.inspect_err(|_| {
            // Somebody may have let it go, and have another with this id. So next time it is asked.
            locked(&self.places).remove(id);
        })?;
        self.forget(id);
        Ok(())
    }

    /// All disks of volumes, by their ids.
    pub(super) async fn list(&self) -> Result<Vec<(Label, PathBuf)>, Refusal> {
        let ours = geteuid().as_raw();
        let leases = self.client.disks(Some(&self.owner)).await?;
        let leases = leases.into_iter().filter(|lease| lease.uid == ours);
        Ok(leases.map(|lease| (lease.id, lease.target)).collect())
    }

    /// Those that are counted and aren't among these: their disks may be gone by themselves.
    pub(super) fn unlisted(&self, listed: &[(Label, PathBuf)]) -> Vec<Label> {
        let listed: HashSet<_> = listed.iter().map(|(id, _)| id).collect();
        let known = self.known.get().map(locked);
        let known = known.iter().flat_map(|known| known.iter());
        known.filter(|id| !listed.contains(id)).cloned().collect()
    }

    /// Forgets a volume that the server has no disk of.
    pub(super) async fn forget_if_gone(&self, id: &Label) -> Result<(), Refusal> {
        if self.client.disk(id).await?.is_none() {
            self.forget(id);
        }
        Ok(())
    }

    /// Counts a volume, if there may be one more. Says whether it is a new one.
    async fn count(&self, id: &Label) -> Result<bool, Refusal> {
        if self.most == 0 {
            return Ok(false);
        }
        let ask = || async {
            let ids = self.list().await?.into_iter().map(|(id, _)| id);
            Ok::<_, Refusal>(Mutex::new(ids.collect()))
        };
        let mut known = locked(self.known.get_or_try_init(ask).await?);
        if known.contains(id) {
            return Ok(false);
        }
        if known.len() as u64 >= self.most {
            return Err(Refusal::TooMany(self.most));
        }
        Ok(known.insert(id.clone()))
    }

    fn forget(&self, id: &Label) {
        locked(&self.places).remove(id);
        if let Some(known) = self.known.get() {
            locked(known).remove(id);
        }
    }
}

fn locked<T>(known: &Mutex<T>) -> MutexGuard<'_, T> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
