//! Clients that acquire: over HTTP on a connection of their own, or from a pool in this process.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as Socket;
use std::path::Path;
use std::sync::Arc;

use overlay_pool::image::BaseRef;
use overlay_pool::{OverlayPool, Source};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::bench::Error;

/// Somebody who acquires, one overlay after the other.
pub(super) trait Acquire: Send + 'static {
    /// Acquires one overlay, with a disk of `size` bytes if that is given.
    fn acquire(
        &mut self,
        target: &Path,
        size: Option<u64>,
    ) -> impl Future<Output = Result<Source, Error>> + Send;

    /// Removes what was acquired.
    fn give_back(&self, target: &Path) -> io::Result<()> {
        std::fs::remove_file(target)
    }
}

/// A caller in the pool's own process.
pub(super) struct Caller {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) base: BaseRef,
}

impl Acquire for Caller {
    async fn acquire(&mut self, target: &Path, size: Option<u64>) -> Result<Source, Error> {
        let base = self.base.clone();
        let acquired = match size {
            Some(size) => self.pool.acquire_sized(base, target, size).await?,
            None => self.pool.acquire(base, target).await?,
        };
        Ok(acquired.source)
    }
}

/// A client of the server on one connection that is kept. It does as little as a client can, so
/// that the server is what is measured: it waits for answers alone, since what a server reads makes
/// room to write, for which a `UnixStream` would wake it each time.
pub(in crate::bench) struct Client {
    stream: AsyncFd<Socket>,
    base: BaseRef,
    answer: Vec<u8>,
}

impl Client {
    pub(super) fn new(stream: UnixStream, base: BaseRef) -> io::Result<Self> {
        #[expect(deprecated, reason = "it is unsafe now; a socket keeps its descriptor")]
        let stream = AsyncFd::with_interest(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { stream, base, answer: Vec::new() })
    }

    /// Another that asks for the same, of whoever is at the other end of `stream`.
    pub(super) fn on(&self, stream: UnixStream) -> io::Result<Self> {
        Self::new(stream, self.base.clone())
    }

    /// How many overlays are ready.
    pub(super) async fn ready(&mut self) -> Result<usize, Error> {
        let stats = self.ask("GET /v1/stats", "").await?;
        let ready = stats["ready"].as_object().ok_or("stats without what is ready")?;
        Ok(usize::try_from(ready.values().filter_map(Value::as_u64).sum::<u64>())?)
    }

    /// Asks, and gives the body of a good answer.
    async fn ask(&mut self, what: &str, body: &str) -> Result<Value, Error> {
        // There is room for one request.
        self.stream.get_ref().write_all(request(what, body).as_bytes())?;
        self.answer.clear();
        loop {
            self.hear().await?;
            if let Some((good, body)) = parse(&self.answer)? {
                let said = || String::from_utf8_lossy(body).into_owned().into();
                return if good { Ok(serde_json::from_slice(body)?) } else { Err(said()) };
            }
        }
    }

    /// Waits for more of the answer.
    async fn hear(&mut self) -> Result<(), Error> {
        let mut room = [0; 1024];
        loop {
            let mut there = self.stream.readable().await?;
            let Ok(heard) = there.try_io(|stream| stream.get_ref().read(&mut room)) else {
                continue;
            };
            let heard = &room[..heard?];
            if heard.is_empty() {
                return Err("the server closed the connection".into());
            }
            // It was all, so that there is no need to try again (`epoll(7)`).
            if heard.len() < room.len() {
                there.clear_ready();
            }
            self.answer.extend_from_slice(heard);
            return Ok(());
        }
    }
}

impl Acquire for Client {
    async fn acquire(&mut self, target: &Path, size: Option<u64>) -> Result<Source, Error> {
        let answer = self.answer_to(target, size).await?;
        match answer["source"].as_str() {
            Some("pooled") => Ok(Source::Pooled),
            Some("on-demand") => Ok(Source::OnDemand),
            _ => Err(format!("no answer to an acquire: {answer}").into()),
        }
    }
}

impl Client {
    /// Acquires one overlay, and gives what the server said.
    pub(super) async fn answer_to(
        &mut self,
        target: &Path,
        size: Option<u64>,
    ) -> Result<Value, Error> {
        let BaseRef { path, format } = &self.base;
        let mut request = json!({ "base": path, "format": format.as_str(), "target": target });
        if let Some(size) = size {
            request["virtual_size"] = size.into();
        }
        self.ask("POST /v1/acquire", &request.to_string()).await
    }
}

/// A request with a body of JSON.
pub(super) fn request(what: &str, body: &str) -> String {
    format!(
        "{what} HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Whether a whole answer is a good one, and its body; none if there is more to come.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(bool, &[u8])>, Error> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let mut lines = std::str::from_utf8(&bytes[..end])?.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let good = status.ok_or("no answer in HTTP/1.1")?.starts_with('2');
    let length: Option<usize> = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok(bytes[end + 4..].get(..length.unwrap_or(0)).map(|body| (good, body)))
}
