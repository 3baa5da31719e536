//! One connection, and the questions and answers that go over it one after the other.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::pin;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::error::ClientError;
use super::receiver::{Receiver, Traffic};

/// The longest answer that is read, in bytes.
pub(super) const LONGEST: usize = 16 << 20;
/// The longest head of an answer that is read, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// A request that may be sent again.
#[derive(Debug)]
pub(super) struct Question(Request<Full<Bytes>>);

impl Question {
    /// With a body of JSON, if there is one.
    pub(super) fn new(
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Self, hyper::http::Error> {
        // A socket has no host name, but HTTP/1.1 wants one.
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::from(body.unwrap_or_default())).map(Self)
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// What came with it.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum Failed {
    Connect(io::Error),
    /// The connection was closed before a byte of the question was sent.
    Unsent(hyper::Error),
    /// The connection was lost after that.
    Lost(hyper::Error),
    TooLong,
}

impl Failed {
    /// What a client says of it.
    pub(super) fn at(self, socket: &Path) -> ClientError {
        let socket = socket.to_owned();
        match self {
            Self::Connect(source) => ClientError::Connect { socket, source },
            Self::Unsent(source) | Self::Lost(source) => ClientError::Connection { socket, source },
            Self::TooLong => {
                ClientError::protocol(&socket, format!("an answer of over {LONGEST} bytes"))
            }
        }
    }
}

/// Connects to a server. The system refuses a file of another kind as it does a socket that nobody
/// listens at.
pub(super) async fn connect(socket: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket).await.map_err(|error| match std::fs::metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            io::Error::new(io::ErrorKind::InvalidInput, "not a socket")
        }
        _ => error,
    })
}

type Io = http1::Connection<TokioIo<Receiver>, Full<Bytes>>;

/// A connection. Dropped, it is closed.
pub(super) struct Exchange {
    requests: http1::SendRequest<Full<Bytes>>,
    /// Moves the bytes, while a question is under way; none if it came to its end.
    io: Option<Io>,
    traffic: Traffic,
}

impl Exchange {
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failed> {
        let stream = connect(socket).await.map_err(Failed::Connect)?;
        let (receiver, traffic) = Receiver::new(stream);
        let mut settings = http1::Builder::new();
        settings.max_buf_size(LONGEST_HEAD);
        let (requests, io) =
            settings.handshake(TokioIo::new(receiver)).await.map_err(Failed::Unsent)?;
        Ok(Self { requests, io: Some(io), traffic })
    }

    pub(super) async fn ask(&mut self, question: &Question) -> Result<Answer, Failed> {
        let Self { requests, io, traffic } = self;
        traffic.begin();
        let failed =
            |error| if traffic.is_sent() { Failed::Lost(error) } else { Failed::Unsent(error) };
        let asked = async {
            requests.ready().await.map_err(failed)?;
            let response = requests.send_request(question.0.clone()).await.map_err(failed)?;
            let status = response.status();
            if response.body().size_hint().lower() > LONGEST as u64 {
                return Err(Failed::TooLong);
            }
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => failed(*error),
                Err(other) => {
                    debug_assert!(other.is::<LengthLimitError>());
                    Failed::TooLong
                }
            })?;
            Ok((status, body.to_bytes()))
        };
        let (status, body) = drive(io, asked).await?;
        Ok(Answer { status, body, descriptors: traffic.take_descriptors() })
    }
}

/// Moves the bytes until `asked` is done. Here and not in a task of its own, so that the connection
/// is closed at the moment when the caller's future is dropped.
pub(super) async fn drive<T>(
    io: &mut Option<impl Future + Unpin>,
    asked: impl Future<Output = T>,
) -> T {
    let mut asked = pin!(asked);
    if let Some(moving) = io {
        tokio::select! {
            biased;
            done = &mut asked => return done,
            // Its error is told to `asked` too.
            _ = moving => {}
        }
    }
    *io = None;
    asked.await
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}
