//! What a request costs that asks for nothing: a server of the same library, on a socket of the same
//! kind, that answers the same bytes.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use overlay_pool::Source;
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::task::spawn_blocking;

use super::client::{Acquire, Client};
use super::process::connect;
use crate::bench::Error;

/// What it is told on the command line.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Be a server that only answers.
    #[arg(long, hide = true, value_name = "SOCKET", requires = "answer")]
    pub(super) bare: Option<PathBuf>,
    /// What it answers.
    #[arg(long, hide = true)]
    answer: Option<String>,
    /// Whether each answer comes from another thread.
    #[arg(long, hide = true)]
    hop: bool,
}

impl Arguments {
    /// Answers until it is killed.
    pub(super) async fn serve(self, socket: &Path) -> io::Result<()> {
        let (answer, hop) = (Bytes::from(self.answer.unwrap_or_default()), self.hop);
        let listener = UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let answer = answer.clone();
            let service = service_fn(move |request| respond(request, answer.clone(), hop));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    answer: Bytes,
    hop: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    // A request that breaks off gets an answer that nobody reads.
    let _ = request.into_body().collect().await;
    if hop {
        let _ = spawn_blocking(|| ()).await;
    }
    let mut response = Response::new(Full::new(answer));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// A process that is such a server. Dropped, it is killed.
pub(super) struct Bare {
    child: Child,
    socket: PathBuf,
}

impl Bare {
    /// Starts one in `dir` that answers this.
    pub(super) fn start(dir: &Path, answer: &str, hop: bool) -> Result<Self, Error> {
        let socket = dir.join(if hop { "hop.sock" } else { "bare.sock" });
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare").arg(&socket).args(["--answer", answer]);
        if hop {
            command.arg("--hop");
        }
        let child = command.stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        Ok(Self { child, socket })
    }

    pub(super) async fn client(&mut self, like: &Client) -> Result<Asker, Error> {
        let stream = connect(&self.socket, &mut self.child).await?;
        Ok(Asker(like.on(stream)?))
    }

    /// Where `/proc` has it.
    pub(super) fn proc(&self) -> PathBuf {
        format!("/proc/{}", self.child.id().unwrap_or(0)).into()
    }
}

/// A client that asks as the others do, and gets no overlay.
pub(super) struct Asker(Client);

impl Acquire for Asker {
    async fn acquire(&mut self, target: &Path, size: Option<u64>) -> Result<Source, Error> {
        self.0.acquire(target, size).await
    }

    fn give_back(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
