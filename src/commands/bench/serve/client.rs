//! Clients that acquire: over HTTP on a connection of their own, or from a pool in this process.

use std::io;
use std::path::Path;
use std::sync::Arc;

use overlay_pool::OverlayPool;
use overlay_pool::api::{AcquireAnswer, AcquireRequest, Source, Stats};
use overlay_pool::image::BaseRef;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::commands::bench::error::BenchError;

/// Somebody who acquires, one overlay after the other.
pub(super) trait Acquire: Send + 'static {
    /// Acquires one overlay, with a disk of `size` bytes where that is given.
    fn acquire(
        &mut self,
        target: &Path,
        size: Option<u64>,
    ) -> impl Future<Output = Result<Source, BenchError>> + Send;
}

/// A caller in the pool's own process.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) pool: Arc<OverlayPool>,
    pub(super) base: BaseRef,
}

impl Acquire for Caller {
    async fn acquire(&mut self, target: &Path, size: Option<u64>) -> Result<Source, BenchError> {
        let base = self.base.clone();
        let acquired = match size {
            Some(size) => self.pool.acquire_sized(base, target, size).await?,
            None => self.pool.acquire(base, target).await?,
        };
        Ok(acquired.source.into())
    }
}

/// A client of the server on one connection that is kept. It does as little as a client can, so
/// that the server is what is measured.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    base: BaseRef,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(socket: &Path, base: BaseRef) -> Result<Self, BenchError> {
        let stream = UnixStream::connect(socket).await.map_err(BenchError::at(socket))?;
        Ok(Self { stream, base, request: Vec::new(), answer: Vec::new() })
    }

    /// How many overlays are ready.
    pub(super) async fn ready(&mut self) -> Result<usize, BenchError> {
        let stats: Stats = self.ask_json("GET", "/v1/stats", None::<&()>).await?;
        Ok(stats.ready.values().sum())
    }

    async fn ask_json<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, BenchError> {
        let answer = self.ask(method, path, body).await?;
        serde_json::from_slice(answer).map_err(|error| server(error.to_string()))
    }

    /// Asks, and gives the body of a good answer.
    async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<&[u8], BenchError> {
        self.send(method, path, body).await.map_err(|error| server(error.to_string()))?;
        let answer = self.receive().await.map_err(|error| server(error.to_string()))?;
        let Answer { good, body } = answer;
        let body = &self.answer[body..];
        if good { Ok(body) } else { Err(server(String::from_utf8_lossy(body).into_owned())) }
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> io::Result<()> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        self.request.clear();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: pool\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(&body);
        self.stream.write_all(&self.request).await
    }

    async fn receive(&mut self) -> io::Result<Answer> {
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = Answer::parse(&self.answer)? {
                return Ok(answer);
            }
        }
    }
}

impl Acquire for Client {
    async fn acquire(&mut self, target: &Path, size: Option<u64>) -> Result<Source, BenchError> {
        let BaseRef { path, format } = self.base.clone();
        let request =
            AcquireRequest { base: path, format, target: target.to_owned(), virtual_size: size };
        let answer: AcquireAnswer = self.ask_json("POST", "/v1/acquire", Some(&request)).await?;
        Ok(answer.source)
    }
}

/// A whole answer: whether it is a good one, and where its body begins.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    good: bool,
    body: usize,
}

impl Answer {
    /// None where there is more to come.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Ok(None);
        };
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "no answer in HTTP/1.1");
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| bad())?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let good = status.ok_or_else(bad)?.starts_with('2');
        let length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let (body, length): (_, usize) = (end + 4, length.unwrap_or(0));
        Ok((bytes.len() >= body + length).then_some(Self { good, body }))
    }
}

fn server(message: String) -> BenchError {
    BenchError::Server { message }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Answer;

    #[rstest]
    #[case("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((true, 38)))]
    #[case("HTTP/1.1 204 No Content\r\n\r\n", Some((true, 27)))]
    #[case("HTTP/1.1 409 Conflict\r\ncontent-length: 1\r\n\r\n!", Some((false, 44)))]
    #[case("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", None)]
    #[case("HTTP/1.1 200 OK\r\ncontent-le", None)]
    fn an_answer_is_whole_or_has_more_to_come(
        #[case] bytes: &str,
        #[case] expected: Option<(bool, usize)>,
    ) {
        let answer = Answer::parse(bytes.as_bytes()).expect("HTTP/1.1");
        assert_eq!(answer.map(|Answer { good, body }| (good, body)), expected);
    }

    #[rstest]
    fn what_is_no_answer_is_an_error() {
        Answer::parse(b"SSH-2.0-OpenSSH\r\n\r\n").expect_err("not HTTP");
    }
}
