//! Figures for Prometheus, over TCP: nothing else can be asked for there.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How many connections there may be at once; the next ones wait to be accepted.
const AT_ONCE: usize = 32;
/// How long a connection may last: one request and its answer. Prometheus waits as long by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes: the least that hyper takes.
const HEAD: usize = 8192;
/// After how long it is tried again to accept somebody.
const AGAIN: Duration = Duration::from_millis(100);

/// Answers `GET /metrics` on `listener` with what `text` makes, in Prometheus' text format; none if
/// it can't be made now. Never ends; dropped, nobody is answered any more.
pub(crate) async fn serve<F, T>(listener: TcpListener, text: F)
where
    F: Fn() -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Option<String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tracing::warn!(%error, "nobody can be accepted who asks for metrics");
                    sleep(AGAIN).await;
                }
                continue;
            }
        };
        let text = text.clone();
        let service = service_fn(move |request| {
            let text = text.clone();
            async move { Ok::<_, Infallible>(answer(&request, text).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .keep_alive(false)
            .max_buf_size(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            let served = timeout(PATIENCE, connection).await;
            tracing::debug!(?served, "asked for metrics");
            drop(place);
        });
    }
}

async fn answer<T>(request: &Request<Incoming>, text: impl Fn() -> T) -> Response<String>
where
    T: Future<Output = Option<String>>,
{
    let plain = |status, (name, value): (HeaderName, &'static str), body: String| {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
        response
    };
    let kind = (CONTENT_TYPE, "text/plain; charset=utf-8");
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, kind, "only /metrics is here\n".to_owned());
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let allowed = (ALLOW, "GET, HEAD");
        return plain(StatusCode::METHOD_NOT_ALLOWED, allowed, String::new());
    }
    match text().await {
        Some(text) => plain(StatusCode::OK, (CONTENT_TYPE, prometheus_text::CONTENT_TYPE), text),
        None => plain(StatusCode::SERVICE_UNAVAILABLE, kind, "try again later\n".to_owned()),
    }
}
