//! A client of [`Server`](super::Server), for programs in Rust.

mod error;
mod exchange;
mod leases;
mod receiver;
mod running;
mod vms;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{
    AcquireAnswer, AcquireRequest, BaseAdded, BaseRequest, BaseState, OpenAnswer, OpenRequest,
    Removed, Source, Stats,
};
use crate::image::BaseRef;
pub use error::ClientError;
use exchange::{Answer, Exchange, Question};
pub use running::Running;

/// How many connections are kept for the next requests.
const IDLE: usize = 64;
/// What a path in a URL is written with: all else is escaped, slashes too.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An overlay that was handed over as an open file that has no name. It is gone when the last
/// descriptor of it is closed.
#[derive(Debug)]
pub struct Opened {
    /// Where the overlay came from.
    pub source: Source,
    /// The base image under it, absolute and resolved.
    pub base: PathBuf,
    /// The overlay, open for reading and writing.
    pub file: File,
}

/// A client of `overlay-pool serve`.
///
/// It is shared by reference among tasks. Each request has a connection for itself; connections
/// are kept and used again, and if the server closed one meanwhile, another is made. No request
/// is ever sent twice that the server may have seen.
///
/// A request whose future is dropped closes its connection, and an acquire is cancelled by that:
/// it hands nothing over, or was done before.
///
/// # Example
///
/// ```
/// use overlay_pool::api::{Client, Source};
/// use overlay_pool::image::BaseRef;
/// # use std::sync::Arc;
/// # use overlay_pool::api::{Access, Limits, Server};
/// # use overlay_pool::{OverlayPool, PoolConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let run = dir.path().to_owned();
/// # let (socket, base) = (run.join("pool.sock"), run.join("disk.img"));
/// # std::fs::write(&base, [0; 512])?;
/// # let config = PoolConfig { pool_dir: run.join("pool"), ..PoolConfig::default() };
/// # let pool = Arc::new(OverlayPool::new(config)?);
/// # pool.start(Some(vec![BaseRef::raw(&base)])).await?;
/// # let access = Access::new(&[run.clone()], &[run.clone()], Vec::new())?;
/// # let server = Server::new(pool.clone(), access.into(), Limits::default());
/// # let listener = tokio::net::UnixListener::bind(&socket)?;
/// # tokio::spawn(server.serve(listener, std::future::pending()));
/// let client = Client::new(&socket); // "/run/overlay-pool/pool.sock"
///
/// // At a path below a directory that the server allows:
/// let acquired = client.acquire(BaseRef::raw(&base), run.join("vm.qcow2")).await?;
/// assert_eq!(acquired.source, Source::Pooled);
///
/// // As an open file, wherever the client is:
/// let opened = client.open(BaseRef::raw(&base), None).await?;
/// assert!(opened.file.metadata()?.len() > 0);
///
/// assert_eq!(client.stats().await?.pooled, 2);
/// # pool.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Exchange>>,
}

impl Client {
    /// A client of the server that listens on `socket`. It connects when it is asked for
    /// something, and waits 60 s for each answer.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: Duration::from_secs(60), idle: Mutex::default() }
    }

    /// Waits this long for each answer.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Where the server listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has one overlay of `base` handed over at `target`. Relative paths are those of this call's
    /// working directory.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] with the contract's name of the error, and all else that a
    /// [`ClientError`] can be.
    pub async fn acquire(
        &self,
        base: impl Into<BaseRef>,
        target: impl AsRef<Path>,
    ) -> Result<AcquireAnswer, ClientError> {
        self.acquire_at(base.into(), target.as_ref(), None).await
    }

    /// Like [`acquire`](Self::acquire), with a disk of `virtual_size` bytes.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire).
    pub async fn acquire_sized(
        &self,
        base: impl Into<BaseRef>,
        target: impl AsRef<Path>,
        virtual_size: u64,
    ) -> Result<AcquireAnswer, ClientError> {
        self.acquire_at(base.into(), target.as_ref(), Some(virtual_size)).await
    }

    async fn acquire_at(
        &self,
        base: BaseRef,
        target: &Path,
        virtual_size: Option<u64>,
    ) -> Result<AcquireAnswer, ClientError> {
        let BaseRef { path, format } = base;
        let (base, target) = (absolute(&path)?, absolute(target)?);
        let request = AcquireRequest { base, format, target, virtual_size, id: None, owner: None };
        self.ask(Method::POST, "/v1/acquire", &request).await
    }

    /// Has one overlay of `base` handed over as an open file without a name: for a client that
    /// has no path in common with the server. It is gone when the last descriptor of it is closed.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire).
    pub async fn open(
        &self,
        base: impl Into<BaseRef>,
        virtual_size: Option<u64>,
    ) -> Result<Opened, ClientError> {
        let BaseRef { path, format } = base.into();
        let request = OpenRequest { base: absolute(&path)?, format, virtual_size };
        let answer = self.exchange(Method::POST, "/v1/open", Some(&request)).await?;
        let OpenAnswer { source, base, took_us: _ } = self.read(&answer)?;
        match <[OwnedFd; 1]>::try_from(answer.descriptors) {
            Ok([descriptor]) => Ok(Opened { source, base, file: File::from(descriptor) }),
            Err(others) => {
                Err(self.protocol(format!("{} descriptors came instead of one", others.len())))
            }
        }
    }

    /// What the pool holds now, and what it did since the server started.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.get("/v1/stats").await
    }

    /// The base images that overlays are kept ready of, by ascending path.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn bases(&self) -> Result<Vec<BaseState>, ClientError> {
        self.get("/v1/bases").await
    }

    /// Has overlays of `base` kept ready from now on. Gives its resolved path. For root and the
    /// server's own user.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if the base image can't be used or isn't allowed, and all else
    /// that a [`ClientError`] can be.
    pub async fn add_base(&self, base: impl Into<BaseRef>) -> Result<PathBuf, ClientError> {
        let BaseRef { path, format } = base.into();
        let request = BaseRequest { path: absolute(&path)?, format };
        let BaseAdded { path } = self.ask(Method::POST, "/v1/bases", &request).await?;
        Ok(path)
    }

    /// Has the overlays of `base` given up, until it is asked for again. Says how many were ready;
    /// none if the pool doesn't know it. For root and the server's own user.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn remove_base(&self, base: impl Into<BaseRef>) -> Result<Option<u64>, ClientError> {
        let BaseRef { path, format } = base.into();
        let path = absolute(&path)?;
        let name = path.to_str().ok_or_else(|| ClientError::NotUtf8 { path: path.clone() })?;
        let at = format!("/v1/bases/{}?format={format}", utf8_percent_encode(name, PLAIN));
        let answer = self.exchange(Method::DELETE, &at, None::<&()>).await;
        match answer.and_then(|answer| self.read::<Removed>(&answer)) {
            Ok(Removed { removed }) => Ok(Some(removed)),
            Err(ClientError::Refused(problem)) if problem.error == "unknown-base" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has all ready overlays given up and none made ahead, until a [`rescan`](Self::rescan).
    /// Says how many were ready. For root and the server's own user.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn drain(&self) -> Result<u64, ClientError> {
        let answer = self.exchange(Method::POST, "/v1/drain", None::<&()>).await?;
        let Removed { removed } = self.read(&answer)?;
        Ok(removed)
    }

    /// Has base images looked for again, and ends a drain. For root and the server's own user.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn rescan(&self) -> Result<(), ClientError> {
        self.exchange(Method::POST, "/v1/rescan", None::<&()>).await.map(drop)
    }

    /// Whether overlays are kept ready.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn is_ready(&self) -> Result<bool, ClientError> {
        Ok(self.not_ready().await?.is_none())
    }

    /// Why overlays aren't kept ready: the pool is starting or drained, or space is low. None
    /// where they are.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn not_ready(&self) -> Result<Option<String>, ClientError> {
        match self.exchange(Method::GET, "/readyz", None::<&()>).await {
            Ok(_) => Ok(None),
            Err(ClientError::Refused(problem)) if problem.error == "not-ready" => {
                Ok(Some(problem.detail))
            }
            Err(error) => Err(error),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.exchange(Method::GET, path, None::<&()>).await?;
        self.read(&answer)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let answer = self.exchange(method, path, Some(body)).await?;
        self.read(&answer)
    }

    /// Asks, and has a success as the answer.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, ClientError> {
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(|error| self.protocol(format!("the request: {error}")))?;
        let question = Question::new(method, path, body)
            .map_err(|error| self.protocol(format!("the request: {error}")))?;
        let answer = tokio::time::timeout(self.timeout, self.deliver(&question))
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone(), after: self.timeout })?
            .map_err(|failed| failed.at(&self.socket))?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        Err(ClientError::refused(&self.socket, answer.status, &answer.body))
    }

    /// Sends on a kept connection, or, if not a byte of it got through, on a new one.
    async fn deliver(&self, question: &Question) -> Result<Answer, exchange::Failed> {
        while let Some(mut kept) = self.kept() {
            match kept.ask(question).await {
                Err(exchange::Failed::Unsent(_)) => {}
                done => return self.done(kept, done),
            }
        }
        let mut new = Exchange::connect(&self.socket).await?;
        let done = new.ask(question).await;
        self.done(new, done)
    }

    /// Keeps the connection of an answer that came whole. One whose future is dropped is closed.
    fn done(
        &self,
        exchange: Exchange,
        answer: Result<Answer, exchange::Failed>,
    ) -> Result<Answer, exchange::Failed> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.is_ok() && idle.len() < IDLE {
            idle.push(exchange);
        }
        answer
    }

    fn kept(&self) -> Option<Exchange> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, ClientError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, what: String) -> ClientError {
        ClientError::protocol(&self.socket, what)
    }
}

/// A path that means the same to the server, and that JSON can carry.
fn absolute(path: &Path) -> Result<PathBuf, ClientError> {
    let absolute = std::path::absolute(path)
        .map_err(|source| ClientError::Path { path: path.to_owned(), source })?;
    match absolute.to_str() {
        Some(_) => Ok(absolute),
        None => Err(ClientError::NotUtf8 { path: absolute }),
    }
}
