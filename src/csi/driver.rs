//! What is done with volumes, one call after the other for each.

use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

use super::figures::Figures;
use super::image_labels::ImageLabels;
use super::leases::Leases;
use super::place::{Place, PlaceError};
use super::refusal::Refusal;
use super::request::Publish;
use super::volume::{DISK, Usage, Volume};
use crate::api::Label;
use crate::claims::{Claim, Claims};
use crate::image::BaseRef;

/// What a driver is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What Kubernetes calls this node.
    pub node_id: String,
    /// Where the server listens.
    pub socket: PathBuf,
    /// What the server's leases of volumes are labelled with: those of another label are others'.
    pub owner: Label,
    /// Where the base images are, to driver and server alike.
    pub images: PathBuf,
    /// The directory of the kubelet, to driver, server and kubelet alike.
    pub kubelet: PathBuf,
    /// How many volumes this node may have; 0 if nobody says how many.
    pub max_volumes: u64,
    /// Where to tell node-feature-discovery which images there are, a feature file.
    pub image_labels: Option<PathBuf>,
}

/// A driver of the volumes of one node.
#[derive(Debug)]
pub struct Driver {
    node_id: String,
    images: PathBuf,
    place: Place,
    leases: Leases,
    /// Who works on which volume: by its id, and then by its target. No id has a slash.
    claims: Claims<String>,
    pub(super) figures: Figures,
    pub(super) metrics: Option<TcpListener>,
    pub(super) image_labels: Option<ImageLabels>,
}

impl Driver {
    /// A driver that has done nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let Settings { node_id, socket, owner, images, kubelet, max_volumes, image_labels } =
            settings;
        Self {
            node_id,
            image_labels: image_labels.map(|file| ImageLabels::new(images.clone(), file)),
            images,
            place: Place::new(kubelet),
            leases: Leases::new(socket, owner, max_volumes),
            claims: Claims::default(),
            figures: Figures::default(),
            metrics: None,
        }
    }

    /// Answers `GET /metrics` to whoever connects to this TCP socket.
    #[must_use]
    pub fn with_metrics(self, listener: TcpListener) -> Self {
        Self { metrics: Some(listener), ..self }
    }

    pub(super) fn node_id(&self) -> &str {
        &self.node_id
    }

    pub(super) fn max_volumes(&self) -> u64 {
        self.leases.most()
    }

    /// Whether the server answers.
    pub(super) async fn is_ready(&self) -> bool {
        self.leases.is_ready().await
    }

    /// Gives a Pod a disk, as it is asked for; again, if it has it.
    pub(super) async fn publish(&self, request: &Publish) -> Result<(), Refusal> {
        let _claim = self.claim(&request.id, &request.target).await;
        match self.hand_over(request).await {
            Err(failure) => Err(self.unless_there(&request.target, failure).await),
            done => done,
        }
    }

    /// What the kubelet is told of a failure. None is final if a volume is at the target.
    pub(super) async fn unless_there(&self, target: &Path, failure: Refusal) -> Refusal {
        if !failure.is_final() {
            return failure;
        }
        match self.at(target, Place::find).await {
            Ok(None) | Err(Refusal::Place(PlaceError::Outside { .. })) => failure,
            Ok(Some(_)) | Err(_) => Refusal::There(failure.into()),
        }
    }

    async fn hand_over(&self, request: &Publish) -> Result<(), Refusal> {
        let Publish { id, target, image, format, size, group } = request;
        // A Pod may use what is complete: whatever fails, that stays.
        let make = |place: &Place, target: &Path| {
            let volume = place.make(target)?;
            let is_complete = volume.is_complete();
            if is_complete {
                volume.take_back()?;
            }
            Ok::<_, Refusal>((is_complete, volume))
        };
        let (was_complete, volume) = self.at(target, make).await?;
        let (format, group) = (*format, *group);
        let base = BaseRef { path: self.images.join(image), format };
        let failure = match self.leases.acquire(id, base, volume.disk(), *size).await {
            Ok(base) => match aside(move || volume.complete(&base, format, group)).await? {
                Ok(()) => return Ok(()),
                Err(failure) => Refusal::from(failure),
            },
            // Nothing was handed over, and if something was before, it isn't this request's.
            Err(failure) if failure.is_final() && !was_complete => {
                return match aside(move || volume.remove_if_empty()).await? {
                    Ok(()) => Err(failure),
                    Err(left) => Err(failure.and(left.into())),
                };
            }
            Err(failure) => return Err(failure),
        };
        // What may be asked for again may as well stay until then.
        if was_complete || !failure.is_final() {
            return Err(failure);
        }
        match self.remove(id, target).await {
            Ok(()) => Err(failure),
            Err(left) => Err(failure.and(left)),
        }
    }

    /// Takes a Pod's disk away; again, if it was.
    pub(super) async fn unpublish(&self, id: &Label, target: &Path) -> Result<(), Refusal> {
        let _claim = self.claim(id, target).await;
        self.remove(id, target).await
    }

    /// Waits until nobody else works on a volume, nor at its target.
    async fn claim(&self, id: &Label, target: &Path) -> [Claim<String>; 2] {
        let volume = self.claims.claim(id.as_str().to_owned()).await;
        [volume, self.claims.claim(target.display().to_string()).await]
    }

    async fn remove(&self, id: &Label, target: &Path) -> Result<(), Refusal> {
        self.place.above(target)?;
        let disk = target.join(DISK);
        let is_leased = self.leases.gave(id, &disk) || {
            let take_back = |place: &Place, target: &Path| match place.find(target)? {
                Some(volume) => Ok::<_, Refusal>(volume.take_back()?),
                None => Ok(()),
            };
            self.at(target, take_back).await?;
            self.leases.has(id, &disk).await? || self.leases.has_record(id, &disk).await?
        };
        let close = |place: &Place, target: &Path| {
            let Some(volume) = place.find(target)? else { return Ok(None) };
            volume.take_back()?;
            volume.close()?;
            Ok::<_, Refusal>(Some(volume))
        };
        let closed = self.at(target, close).await?;
        if is_leased {
            self.leases.release(id, &disk).await?;
        }
        match closed {
            Some(volume) => Ok(aside(move || volume.remove()).await??),
            None => Ok(()),
        }
    }

    /// How full a Pod's disk is.
    pub(super) async fn usage(&self, id: &Label, path: PathBuf) -> Result<Usage, Refusal> {
        let unpublished =
            Refusal::NotPublished { id: id.as_str().to_owned(), path: path.display().to_string() };
        let volume = match self.at(&path, Place::find).await {
            Err(Refusal::Place(PlaceError::Outside { .. })) => None,
            found => found?,
        };
        let Some(volume) = volume else { return Err(unpublished) };
        let usage = aside(move || volume.is_complete().then(|| volume.usage())).await?;
        Ok(usage.ok_or(unpublished)??)
    }

    /// Removes the volumes that the kubelet has forgotten. Says how many they were. One that can't be
    /// removed is left for the next time.
    pub(super) async fn sweep(&self) -> Result<usize, Refusal> {
        let mut removed = 0;
        let listed = self.leases.list().await?;
        for id in self.leases.unlisted(&listed) {
            let _claim = self.claims.claim(id.as_str().to_owned()).await;
            if let Err(refusal) = self.leases.forget_if_gone(&id).await {
                tracing::debug!(id = id.as_str(), "whether there is a disk isn't known: {refusal}");
            }
        }
        for (id, disk) in listed {
            let Some(target) = disk.parent() else { continue };
            let _claim = self.claim(&id, target).await;
            let look =
                |place: &Place, target: &Path| Ok::<_, PlaceError>(place.has_forgotten(target));
            if self.at(target, look).await? {
                let gone = self.remove(&id, target).await;
                let (id, at) = (id.as_str(), target.display());
                match gone {
                    Ok(()) => {
                        tracing::warn!(id, target = %at, "removed, its Pod is gone");
                        self.figures.forgotten.inc();
                        removed += 1;
                    }
                    Err(refusal) => {
                        tracing::warn!(id, target = %at, "not removed, its Pod is gone: {refusal}");
                    }
                }
            }
        }
        Ok(removed + self.sweep_unleased().await?)
    }

    /// Removes the volumes that neither the kubelet nor the server knows, as after a pool directory was
    /// lost. Says how many they were.
    async fn sweep_unleased(&self) -> Result<usize, Refusal> {
        let mut removed = 0;
        let place = self.place.clone();
        for target in aside(move || place.unrecorded()).await?? {
            let _claim = self.claims.claim(target.display().to_string()).await;
            if self.leases.has_any(&target.join(DISK)).await? {
                continue;
            }
            let at = target.display();
            match self.at(&target, discard).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!(target = %at, "removed, nobody knows it");
                    self.figures.forgotten.inc();
                    removed += 1;
                }
                Err(refusal) => {
                    tracing::warn!(target = %at, "not removed, though nobody knows it: {refusal}");
                }
            }
        }
        Ok(removed)
    }

    /// Looks at a target where file-system calls may wait.
    async fn at<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        target: &Path,
        look: impl FnOnce(&Place, &Path) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (place, target) = (self.place.clone(), target.to_owned());
        aside(move || look(&place, &target)).await?.map_err(Into::into)
    }
}

/// Removes what nobody has a lease of, if it is a volume of this driver's and no Pod's. Says whether
/// it did.
fn discard(place: &Place, target: &Path) -> Result<bool, Refusal> {
    if !place.is_unrecorded(target)? {
        return Ok(false);
    }
    let Some(volume) = place.find(target)?.filter(Volume::is_ours) else { return Ok(false) };
    volume.discard()?;
    Ok(true)
}

/// Does what may wait for a disk.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    spawn_blocking(work).await.map_err(|_| Refusal::Ending)
}

#[cfg(feature = "server")]
#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use tokio::net::UnixListener;

    use super::*;
    use crate::api::{Access, Client, Limits, Server};
    use crate::{OverlayPool, PoolConfig};

    fn label(text: &str) -> Label {
        Label::try_from(text.to_owned()).expect("a label")
    }

    /// Its Pod's directory went with all that was in it, and the server found that out first.
    #[tokio::test]
    async fn a_volume_that_is_gone_by_itself_is_not_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let [base, socket, pool_dir] =
            ["base", "socket", "pool"].map(|name| folder.path().join(name));
        std::fs::write(&base, [0; 4096]).expect("a file");
        let base = BaseRef::raw(base);
        let config = PoolConfig { max_concurrent_vms: 0, pool_dir, ..PoolConfig::default() };
        let pool = Arc::new(OverlayPool::new(config).expect("a pool"));
        pool.start(Some(Vec::new())).await.expect("it is started");
        let targets = [folder.path().to_owned()];
        let access = Access::new(&targets, &[], vec![base.clone()]).expect("directories");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let server = Server::new(Arc::clone(&pool), Arc::new(access), Limits::default());
        tokio::spawn(server.serve(listener, pending()));
        let driver = Driver::new(Settings {
            node_id: "node".to_owned(),
            socket: socket.clone(),
            owner: label("pods"),
            images: folder.path().to_owned(),
            kubelet: folder.path().to_owned(),
            max_volumes: 1,
            image_labels: None,
        });
        let [gone, next] = ["gone", "next"].map(label);
        let [first, second] = ["1", "2"].map(|name| folder.path().join(name));
        let acquired = driver.leases.acquire(&gone, base.clone(), first.clone(), None).await;
        acquired.expect("a disk");
        std::fs::remove_file(&first).expect("removed");
        assert!(Client::new(socket).disk(&gone).await.expect("an answer").is_none());
        let full = driver.leases.acquire(&next, base.clone(), second.clone(), None).await;
        assert!(matches!(full, Err(Refusal::TooMany(1))), "{full:?}");
        driver.sweep().await.expect("a look");
        driver.leases.acquire(&next, base, second, None).await.expect("there is room");
        pool.stop().await;
    }
}
