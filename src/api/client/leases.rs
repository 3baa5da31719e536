//! What a client asks about disks with an id.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hyper::Method;
use percent_encoding::percent_encode;

use super::{Client, ClientError, PLAIN, absolute};
use crate::api::wire::{AcquireAnswer, AcquireRequest, Label, Lease, Removed};
use crate::image::BaseRef;

impl Client {
    /// Has one overlay of `base` handed over at `target`, as [`acquire`](Self::acquire) does, or says
    /// again what was handed over by the same call before: for as long as that disk is there, also
    /// after a restart of the server. The id is this user's: another user's is another.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire); with the name `id-taken` if the id is that of a disk that
    /// was asked for otherwise.
    pub async fn lease(
        &self,
        base: impl Into<BaseRef>,
        target: impl AsRef<Path>,
        virtual_size: Option<u64>,
        id: &Label,
        owner: Option<&Label>,
    ) -> Result<AcquireAnswer, ClientError> {
        let BaseRef { path, format } = base.into();
        let request = AcquireRequest {
            base: absolute(&path)?,
            format,
            target: absolute(target.as_ref())?,
            virtual_size,
            id: Some(id.clone()),
            owner: owner.cloned(),
        };
        self.ask(Method::POST, "/v1/acquire", &request).await
    }

    /// The disks that this user acquired with an id, those of one owner or all; for root and the
    /// server's own user, those of all users.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn disks(&self, owner: Option<&Label>) -> Result<Vec<Lease>, ClientError> {
        let query = owner.map(|owner| format!("?owner={owner}")).unwrap_or_default();
        self.get(&format!("/v1/disks{query}")).await
    }

    /// What a disk is that this user acquired with an id; none if it isn't there.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn disk(&self, id: &Label) -> Result<Option<Lease>, ClientError> {
        match self.get(&format!("/v1/disks/{id}")).await {
            Err(error) if error.name() == Some("unknown-disk") => Ok(None),
            result => result.map(Some),
        }
    }

    /// Removes a disk that this user acquired with an id. It is no error if there is none, and what
    /// else is at its target by then stays.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn release(&self, id: &Label) -> Result<(), ClientError> {
        let path = format!("/v1/disks/{id}");
        self.exchange(Method::DELETE, &path, None::<&()>).await.map(drop)
    }

    /// Does what [`release`](Self::release) does, but removes the disk that is at `target` alone: what
    /// [`AcquireAnswer::target`] said. So nobody removes a disk that has taken the id since.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be; with the name `id-taken` if the disk with this id is
    /// elsewhere.
    pub async fn release_at(&self, id: &Label, target: &Path) -> Result<(), ClientError> {
        let target = absolute(target)?;
        let target = percent_encode(target.as_os_str().as_bytes(), PLAIN);
        let path = format!("/v1/disks/{id}?target={target}");
        self.exchange(Method::DELETE, &path, None::<&()>).await.map(drop)
    }

    /// Removes all disks of an owner that this user acquired. Says how many there were.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn release_all(&self, owner: &Label) -> Result<u64, ClientError> {
        let path = format!("/v1/disks?owner={owner}");
        let answer = self.exchange(Method::DELETE, &path, None::<&()>).await?;
        let Removed { removed } = self.read(&answer)?;
        Ok(removed)
    }
}
