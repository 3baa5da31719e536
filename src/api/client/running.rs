//! A program that runs in a VM of a server.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};

use futures_util::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;

use super::error::ClientError;
use super::exchange::{Failed, connect, drive};
use super::receiver::Receiver;
use crate::api::wire::Event;

/// The longest event that is read, in bytes: a file's, in base 64.
const LONGEST: usize = 64 << 20;
/// How much of a refusal is read, in bytes.
const REFUSAL: usize = 1 << 20;
/// How many bytes of input are sent at once.
const PART: usize = 16 << 10;

type Body = UnsyncBoxBody<Bytes, Infallible>;
type Io = http1::Connection<TokioIo<Receiver>, Body>;

/// A program that runs in a VM of a server. Dropped, it is ended, with all that runs there.
pub struct Running {
    socket: PathBuf,
    body: Incoming,
    /// Moves the bytes; none if it came to its end.
    io: Option<Io>,
    /// What came of the next event.
    line: Vec<u8>,
    /// How much of that has no end of a line.
    searched: usize,
    over: bool,
}

impl Running {
    /// Has a program run that `request` tells of, as JSON; with input, it goes as a form.
    pub(super) async fn begin(
        socket: &Path,
        path: &str,
        request: Vec<u8>,
        input: Option<Box<dyn AsyncRead + Send + Unpin>>,
    ) -> Result<Self, ClientError> {
        let (accepted, go) = oneshot::channel();
        let (kind, body) = match input {
            None => ("application/json".to_owned(), whole(request)),
            Some(input) => form(&request, input, go),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, kind)
            .body(body)
            .map_err(|error| ClientError::protocol(socket, format!("the request: {error}")))?;
        let (response, io) = ask(socket, request).await.map_err(|failed| failed.at(socket))?;
        let status = response.status();
        let mut running = Self {
            socket: socket.to_owned(),
            body: response.into_body(),
            io,
            line: Vec::new(),
            searched: 0,
            over: false,
        };
        if status == StatusCode::OK {
            let _ = accepted.send(());
            return Ok(running);
        }
        while running.line.len() < REFUSAL && running.receive().await? {}
        Err(ClientError::refused(socket, status, &running.line))
    }

    /// What happens next; none after the last, which is [`Event::End`] or [`Event::Failed`].
    ///
    /// # Errors
    ///
    /// [`ClientError::Connection`] if the server has gone, [`ClientError::Protocol`].
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        if self.over {
            return Ok(None);
        }
        let length = loop {
            if let Some(at) = self.line[self.searched..].iter().position(|byte| *byte == b'\n') {
                break self.searched + at + 1;
            }
            self.searched = self.line.len();
            if self.line.len() > LONGEST {
                return Err(ClientError::protocol(
                    &self.socket,
                    format!("an event of over {LONGEST} bytes"),
                ));
            }
            if !self.receive().await? {
                return Err(ClientError::protocol(
                    &self.socket,
                    "the program's end never came".to_owned(),
                ));
            }
        };
        let line: Vec<u8> = self.line.drain(..length).collect();
        self.searched = 0;
        let event = serde_json::from_slice(&line)
            .map_err(|error| ClientError::protocol(&self.socket, format!("an event: {error}")))?;
        self.over = matches!(event, Event::End { .. } | Event::Failed { .. });
        Ok(Some(event))
    }

    /// Takes what comes next; false at the end.
    async fn receive(&mut self) -> Result<bool, ClientError> {
        match drive(&mut self.io, self.body.frame()).await {
            Some(Ok(frame)) => {
                self.line.extend(frame.into_data().unwrap_or_default());
                Ok(true)
            }
            Some(Err(source)) => {
                Err(ClientError::Connection { socket: self.socket.clone(), source })
            }
            None => Ok(false),
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("socket", &self.socket).finish_non_exhaustive()
    }
}

async fn ask(
    socket: &Path,
    request: Request<Body>,
) -> Result<(Response<Incoming>, Option<Io>), Failed> {
    let stream = connect(socket).await.map_err(Failed::Connect)?;
    let (receiver, _) = Receiver::new(stream);
    let connected = http1::handshake(TokioIo::new(receiver)).await;
    let (mut requests, io) = connected.map_err(Failed::Unsent)?;
    let mut io = Some(io);
    let response = drive(&mut io, requests.send_request(request)).await.map_err(Failed::Lost)?;
    Ok((response, io))
}

fn whole(bytes: Vec<u8>) -> Body {
    boxed(stream::iter([Bytes::from(bytes)]))
}

fn boxed(bytes: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(bytes.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))).boxed_unsync()
}

/// A form of the request and the input. Of that nothing is read before the server has agreed.
fn form(
    request: &[u8],
    input: Box<dyn AsyncRead + Send + Unpin>,
    go: oneshot::Receiver<()>,
) -> (String, Body) {
    let boundary = format!("{:032x}", rand::random::<u128>());
    let part = |name: &str| {
        format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n")
    };
    let mut head = part("request").into_bytes();
    head.extend(request);
    head.extend(format!("\r\n{}", part("stdin")).bytes());
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let input = stream::unfold((input, Some(go)), |(mut input, go)| async move {
        if let Some(go) = go {
            go.await.ok()?;
        }
        let mut bytes = vec![0; PART];
        let read = input.read(&mut bytes).await.unwrap_or(0);
        bytes.truncate(read);
        (read > 0).then(|| (Bytes::from(bytes), (input, None)))
    });
    let body = stream::iter([Bytes::from(head)]).chain(input).chain(stream::iter([end]));
    (format!("multipart/form-data; boundary={boundary}"), boxed(body))
}
