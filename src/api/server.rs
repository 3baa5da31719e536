//! Accepting clients, and answering them within bounds.

mod acceptor;
mod access;
mod acquire;
mod bases;
mod caller;
mod connection;
mod extract;
mod held;
mod leases;
mod metrics;
mod open;
mod openapi;
mod overlooked;
mod peers;
mod problem;
mod refusals;
mod refused;
mod restocking;
mod resumed;
mod room;
mod roots;
mod series;
mod state;
mod status;
mod traffic;
mod trusted;
mod turns;
mod unreceived;
mod verdicts;
#[cfg(feature = "vm")]
mod vms;

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_io_timeout::TimeoutWriter;
use tower::Service;

pub use access::{Access, AccessError};
pub use bases::look_again;
pub use leases::{LEASES, leased_bases, leases_seal};
pub use open::PREFIX;
pub use openapi::openapi;
#[cfg(feature = "vm")]
pub use vms::VmLimits;

use acceptor::Acceptor;
use caller::{Caller, Outcome};
use connection::{Channel, Connection};
use peers::{Full, Peer, Peers, Room};
use resumed::Resumed;
use state::{All, Shared};

use super::wire::Problem;
use crate::pool::OverlayPool;

/// How often base images under overlays that callers hold are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What hyper needs at least.
const SMALLEST_HEAD: usize = 8192;
/// A timer can't end after the end of time: what is longer than a server lives is as good as this.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
/// How long a client that is turned away has to take its answer.
const TURN_AWAY: Duration = Duration::from_secs(1);
/// How many are told so at once; others are just closed.
const TURNED_AWAY: usize = 64;

/// What a server bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once. Default 1,024.
    pub connections: usize,
    /// Connections at once of one process, or of one other user. Default 256.
    pub connections_per_peer: usize,
    /// The longest head of a request in bytes, 8 KiB at least. Default 32 KiB.
    pub head: usize,
    /// The longest request body in bytes. Default 64 KiB.
    pub body: usize,
    /// How long a client may take to send a request's head, to say nothing, and to read nothing of
    /// an answer. Default 30 s.
    pub client_timeout: Duration,
    /// How long a request may take from its head to its answer. Default 30 s.
    pub request_timeout: Duration,
    /// Disks with an id that a user may have at once who is neither root nor the server's own.
    /// Default 1,000.
    pub disks_per_user: usize,
    /// How long requests under way may take once the server is to end. Default 10 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_peer: 256,
            head: 32 << 10,
            body: 64 << 10,
            client_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            disks_per_user: 1000,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves a pool over HTTP/1.1 on a Unix socket.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    limits: Limits,
    metrics: Option<TcpListener>,
}

impl Server {
    /// A server of `pool`, which the caller starts and stops.
    #[must_use]
    pub fn new(pool: Arc<OverlayPool>, access: Arc<Access>, limits: Limits) -> Self {
        let limits = Limits { client_timeout: limits.client_timeout.min(LONGEST), ..limits };
        Self {
            shared: Arc::new(All::new(pool, access, limits.disks_per_user)),
            limits,
            metrics: None,
        }
    }

    /// Answers `GET /metrics` to whoever connects to this TCP socket too, and nothing else there.
    #[must_use]
    pub fn with_metrics(self, listener: TcpListener) -> Self {
        Self { metrics: Some(listener), ..self }
    }

    /// Keeps what it has to know of disks that are acquired with an id in a directory of its own,
    /// which it makes if it is missing; by default `leases` beside the pool's. Given twice, the
    /// first one stays.
    #[must_use]
    pub fn with_leases(self, directory: impl Into<PathBuf>) -> Self {
        self.shared.leases.keep_in(directory.into());
        self
    }

    /// Has clients run code in VMs too, which the caller starts and stops.
    #[cfg(feature = "vm")]
    #[must_use]
    pub fn with_vms(self, manager: Arc<crate::vm::VmManager>, limits: VmLimits) -> Self {
        let vms = vms::Vms::new(manager, limits, self.limits.request_timeout);
        // Given twice, the first ones stay.
        let _ = self.shared.vms.set(Arc::new(vms));
        self
    }

    /// Answers clients until `end` is done; then takes no more of them, and waits until those
    /// there have their answers, for [`Limits::drain_timeout`] at most. No request is under way
    /// when this is done or dropped, but for those that a disk doesn't answer.
    ///
    /// # Errors
    ///
    /// Those of accepting a client, but for those that pass.
    pub fn serve(
        self,
        listener: UnixListener,
        end: impl Future<Output = ()>,
    ) -> impl Future<Output = io::Result<()>> {
        open::OpenFiles::sweep(&self.shared.pool);
        self.shared.access.keep_out(&self.shared.leases.place());
        // Now, so that what it keeps in reserve is there before its caller opens anything more.
        let acceptor = Acceptor::new(listener);
        self.attend(acceptor, end)
    }

    async fn attend(
        mut self,
        mut acceptor: Acceptor,
        end: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let router = self.router();
        let Limits { connections: all, connections_per_peer: of_one, .. } = self.limits;
        let peers = Peers::new(Room { all, of_one });
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let graceful = GracefulShutdown::new();
        let mut clients = JoinSet::new();
        let (alive, mut ended) = mpsc::channel::<Infallible>(1);
        let mut end = std::pin::pin!(end);
        let mut look = interval(LOOK);
        clients.spawn(leases::look_after(Arc::clone(&self.shared)));
        if let Some(listener) = self.metrics.take() {
            clients.spawn(metrics::answer(listener, Arc::clone(&self.shared)));
        }
        loop {
            let stream = tokio::select! {
                () = &mut end => break,
                Some(_) = clients.join_next() => continue,
                _ = look.tick() => {
                    self.shared.held.look_again(&self.shared.turns);
                    continue;
                }
                accepted = acceptor.accept() => accepted?,
            };
            let Ok(peer) = stream.peer_cred().map(Peer::from) else { continue };
            let admitted = match peers.admit(peer) {
                Ok(admitted) => admitted,
                Err(full) => {
                    tracing::warn!(%peer, %full, "turned away");
                    if let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned() {
                        clients.spawn(async move {
                            let _ = timeout(TURN_AWAY, turn_away(stream, full)).await;
                            drop(permit);
                        });
                    }
                    continue;
                }
            };
            tracing::debug!(%peer, "connection");
            let places = admitted.places();
            let connection = match self.connection(stream, peer, places, router.clone(), &graceful)
            {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(%peer, %error, "closed at once");
                    continue;
                }
            };
            let alive = alive.clone();
            let connection = Resumed::new(async move {
                let _alive = alive;
                if let Err(error) = connection.await {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                drop(admitted);
            });
            clients.spawn(connection);
        }
        self.shared.end();
        drop(acceptor);
        if timeout(self.limits.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests under way were given up");
        }
        clients.shutdown().await;
        // Until the last connection is dropped, which may be going on elsewhere.
        drop(alive);
        let _ = ended.recv().await;
        #[cfg(feature = "vm")]
        if let Some(vms) = self.shared.vms.get() {
            vms.end_sessions().await;
        }
        Ok(())
    }

    fn router(&self) -> Router {
        openapi::router()
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(self.shared.clone())
    }

    /// Answers one client's requests.
    fn connection(
        &self,
        stream: UnixStream,
        peer: Peer,
        places: Arc<Semaphore>,
        router: Router,
        graceful: &GracefulShutdown,
    ) -> io::Result<impl Future<Output = hyper::Result<()>> + Send + use<>> {
        let (connection, channel) = Connection::new(stream)?;
        let (unreceived, to) = (self.shared.unreceived.clone(), Arc::clone(channel.ours()));
        let open = self.shared.traffic.connection();
        let mut connection = TimeoutWriter::new(connection);
        connection.set_timeout(Some(self.limits.client_timeout));
        let request_timeout = self.limits.request_timeout;
        let shared = Arc::clone(&self.shared);
        let body = DefaultBodyLimit::max(self.limits.body);
        let answers = Answers { router, peer, channel, places, body, request_timeout, shared };
        let answers = Arc::new(answers);
        let service = service_fn(move |request| Arc::clone(&answers).answer(request));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.client_timeout)
            .max_buf_size(self.limits.head.max(SMALLEST_HEAD))
            .serve_connection(TokioIo::new(Box::pin(connection)), service);
        let connection = graceful.watch(connection);
        Ok(async move {
            let _open = open;
            let ended = connection.await;
            unreceived.received(peer, &to).await;
            ended
        })
    }
}

/// What the requests of one connection are answered with.
struct Answers {
    router: Router,
    peer: Peer,
    channel: Channel,
    /// How many of this client's requests may be read and answered at once, over all connections.
    places: Arc<Semaphore>,
    body: DefaultBodyLimit,
    request_timeout: Duration,
    shared: Shared,
}

impl Answers {
    /// How long an answer may take. A VM may have to boot first.
    fn patience(&self, path: &str) -> Duration {
        #[cfg(feature = "vm")]
        if let Some(vms) = self.shared.vms.get()
            && vms::is_about_vms(path)
        {
            return self.request_timeout + vms.boot_patience();
        }
        let _ = path;
        self.request_timeout
    }

    async fn answer(
        self: Arc<Self>,
        request: hyper::Request<hyper::body::Incoming>,
    ) -> Result<Response, Infallible> {
        let peer = self.peer;
        let request_timeout = self.patience(request.uri().path());
        let outcome = Outcome::default();
        let (channel, decides) = (self.channel.clone(), outcome.clone());
        let mut answer = pin!(async {
            let place = Arc::new(Arc::clone(&self.places).acquire_owned().await.ok());
            let mut request = request.map(Body::new);
            self.body.apply(&mut request);
            request.extensions_mut().insert(Caller { peer, channel, outcome: decides, place });
            self.router.clone().call(request).await
        });
        let answer = match timeout(request_timeout, &mut answer).await {
            Ok(answer) => answer?,
            Err(_) if outcome.decide() => {
                let detail =
                    format!("no answer within {request_timeout:?}; nothing was handed over");
                Problem::new(StatusCode::GATEWAY_TIMEOUT, "timed-out", detail).into_response()
            }
            // It was done in time.
            Err(_) => answer.await?,
        };
        self.shared.traffic.answered(answer.status());
        Ok(answer)
    }
}

async fn not_found(request: Request) -> Problem {
    let detail = format!("nothing is at {}; see /openapi.json", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} doesn't take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// Answers a client that isn't admitted, whatever it asks for.
async fn turn_away(mut stream: UnixStream, full: Full) -> io::Result<()> {
    let (status, detail) = (StatusCode::SERVICE_UNAVAILABLE, full.to_string());
    let problem = Problem::new(status, "too-many-connections", detail);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\n{}: application/problem+json\r\n{}: close\r\n\
         {}: {}\r\n\r\n{body}",
        header::CONTENT_TYPE,
        header::CONNECTION,
        header::CONTENT_LENGTH,
        body.len(),
    );
    stream.write_all(answer.as_bytes()).await?;
    // Closed before it has sent its request, it would see that fail and never read the answer.
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}
