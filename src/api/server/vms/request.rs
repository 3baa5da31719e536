//! What a client asks to have run: as JSON, or as a form with files and input.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use futures_util::{Stream, StreamExt, TryStreamExt};
use multer::{Field, Multipart};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, duplex};
use utoipa::ToSchema;

use crate::api::wire::{ExecuteRequest, Problem, RunRequest};
use crate::vm::Program;

/// How much of a program's input may wait for it.
const WAITING: usize = 64 << 10;
/// How many bytes a form may have beside the contents of its parts.
const HEADS: usize = 1 << 20;
/// The most files that go in, and the most that come back.
const FILES: usize = 1024;
/// The longest time that a program may be given, and the longest that a session may be idle.
pub(super) const LONGEST: f64 = 86400.0;

/// A program with files and input.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what is read part by part")]
pub(super) struct ExecuteForm {
    /// The program, as JSON; the first part.
    request: ExecuteRequest,
    /// A file for the guest, which the part's file name says the path of.
    #[schema(content_media_type = "application/octet-stream", value_type = Option<Vec<u8>>)]
    file: Option<Vec<u8>>,
    /// What the program reads from its standard input; the last part, which may go on while the
    /// program runs.
    #[schema(content_media_type = "application/octet-stream", value_type = Option<Vec<u8>>)]
    stdin: Option<Vec<u8>>,
}

/// A program with files and input.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what is read part by part")]
pub(super) struct RunForm {
    /// The program, as JSON; the first part.
    request: RunRequest,
    /// A file for the guest, which the part's file name says the path of.
    #[schema(content_media_type = "application/octet-stream", value_type = Option<Vec<u8>>)]
    file: Option<Vec<u8>>,
    /// What the program reads from its standard input; the last part, which may go on while the
    /// program runs.
    #[schema(content_media_type = "application/octet-stream", value_type = Option<Vec<u8>>)]
    stdin: Option<Vec<u8>>,
}

/// What came with a request for a program.
pub(super) struct Asked<T> {
    pub(super) request: T,
    pub(super) files: Vec<FileIn>,
    /// A part whose bytes still come.
    pub(super) stdin: Option<Field<'static>>,
}

/// A file for the guest.
#[derive(Debug)]
pub(super) struct FileIn {
    pub(super) path: String,
    pub(super) bytes: Bytes,
}

impl<T: DeserializeOwned> Asked<T> {
    /// Reads a request, but for its standard input, of `most` bytes and within a time.
    pub(super) async fn read(
        request: Request,
        most: usize,
        within: Duration,
    ) -> Result<Self, Problem> {
        let read = tokio::time::timeout(within, Self::of(request, most)).await;
        read.unwrap_or_else(|_| {
            let detail = format!("the request didn't come within {within:?}; nothing was run");
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timed-out", detail))
        })
    }

    async fn of(request: Request, most: usize) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let body = request.into_body();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => {
                let bytes = all(body, most).await?;
                Ok(Self { request: parsed(&bytes)?, files: Vec::new(), stdin: None })
            }
            "multipart/form-data" => Self::form(&kind, body, most).await,
            _ => {
                let detail = "send application/json or multipart/form-data";
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad-request", detail))
            }
        }
    }

    async fn form(kind: &str, body: Body, most: usize) -> Result<Self, Problem> {
        let boundary = multer::parse_boundary(kind).map_err(|error| bad_form(&error))?;
        let budget = Arc::new(AtomicUsize::new(most.saturating_add(HEADS)));
        let mut form = Multipart::new(bounded(body, Arc::clone(&budget)), boundary);
        let mut left = most;
        let first = form.next_field().await.map_err(|error| bad_form(&error))?;
        let request = match first {
            Some(field) if field.name() == Some("request") => {
                parsed(&part(field, &mut left, most).await?)?
            }
            _ => return Err(Problem::bad_request("the form's first part isn't `request`")),
        };
        let mut files = Vec::new();
        while let Some(field) = form.next_field().await.map_err(|error| bad_form(&error))? {
            match (field.name(), field.file_name()) {
                (Some("stdin"), _) => {
                    // It may be endless, and nothing of it is kept.
                    budget.store(usize::MAX, Ordering::Relaxed);
                    return Ok(Self { request, files, stdin: Some(field) });
                }
                (Some("file"), Some(path)) if files.len() < FILES => {
                    let path = path.to_owned();
                    files.push(FileIn { path, bytes: part(field, &mut left, most).await? });
                }
                (Some("file"), Some(_)) => return Err(too_large(&format!("over {FILES} files"))),
                (Some("file"), None) => {
                    return Err(Problem::bad_request("a part `file` without a file name"));
                }
                (name, _) => {
                    let detail = format!("an unknown part {:?}", name.unwrap_or_default());
                    return Err(Problem::bad_request(detail));
                }
            }
        }
        Ok(Self { request, files, stdin: None })
    }
}

/// What a program reads.
pub(super) struct Input {
    pub(super) read: Box<dyn AsyncRead + Send + Unpin>,
    /// What feeds it meanwhile, if it still comes.
    pub(super) feeder: Option<Feeder>,
}

/// Feeds a program with what still comes of a request.
pub(super) struct Feeder {
    from: Field<'static>,
    to: DuplexStream,
}

impl Feeder {
    /// Feeds it until the input ends or nobody reads it.
    pub(super) async fn run(mut self) {
        while let Ok(Some(bytes)) = self.from.chunk().await {
            if self.to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

impl Input {
    pub(super) fn of(
        text: Option<String>,
        stream: Option<Field<'static>>,
    ) -> Result<Self, Problem> {
        match (text, stream) {
            (Some(_), Some(_)) => {
                Err(Problem::bad_request("stdin stands in the request, and as a part of its own"))
            }
            (text, None) => {
                let text = Cursor::new(text.unwrap_or_default().into_bytes());
                Ok(Self { read: Box::new(text), feeder: None })
            }
            (None, Some(from)) => {
                let (read, to) = duplex(WAITING);
                Ok(Self { read: Box::new(read), feeder: Some(Feeder { from, to }) })
            }
        }
    }
}

/// The program that was asked for.
pub(super) fn program(request: &RunRequest) -> Result<Program, Problem> {
    let RunRequest { code, name, arguments, environment, limits, .. } = request;
    let mut program = Program::new(code);
    if let Some(name) = name {
        program = program.name(expect_plain("name", name)?);
    }
    for argument in arguments {
        program = program.argument(expect_plain("arguments", argument)?);
    }
    for (name, value) in environment {
        if name.is_empty() || name.contains('=') {
            let detail = format!("environment: {name:?} is no variable's name");
            return Err(unprocessable(detail));
        }
        program = program
            .variable(expect_plain("environment", name)?, expect_plain("environment", value)?);
    }
    if request.files.len() > FILES {
        return Err(unprocessable(format!("files: give up to {FILES}")));
    }
    for file in &request.files {
        expect_plain("files", file)?;
    }
    if let Some(seconds) = limits.seconds {
        program = program.timeout(period("limits.seconds", seconds)?);
    }
    if let Some(bytes) = limits.output_bytes {
        program = program.max_output(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    Ok(program)
}

/// Seconds as a time.
pub(super) fn period(what: &str, seconds: f64) -> Result<Duration, Problem> {
    let good = seconds > 0.0 && seconds <= LONGEST;
    let period = good.then(|| Duration::try_from_secs_f64(seconds).ok()).flatten();
    period.ok_or_else(|| unprocessable(format!("{what}: give over 0 and up to {LONGEST} seconds")))
}

/// No process can be given a NUL.
fn expect_plain<'a>(what: &str, text: &'a str) -> Result<&'a str, Problem> {
    if text.contains('\0') {
        return Err(unprocessable(format!("{what}: {text:?} has a NUL in it")));
    }
    Ok(text)
}

fn unprocessable(detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-request", detail)
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => unprocessable(error.to_string()),
        _ => Problem::bad_request(error.to_string()),
    })
}

/// A body of `most` bytes.
async fn all(body: Body, most: usize) -> Result<Vec<u8>, Problem> {
    let mut stream = body.into_data_stream();
    let mut all = Vec::new();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| Problem::bad_request(error.to_string()))?;
        if all.len() + bytes.len() > most {
            return Err(too_large(&format!("over {most} bytes")));
        }
        all.extend(bytes);
    }
    Ok(all)
}

/// The bytes of a part, of which all together may have `most`.
async fn part(field: Field<'static>, left: &mut usize, most: usize) -> Result<Bytes, Problem> {
    let read =
        field.map_err(|error| bad_form(&error)).try_fold(Vec::new(), |mut read: Vec<u8>, bytes| {
            let fits = read.len() + bytes.len() <= *left;
            read.extend(bytes);
            let result =
                if fits { Ok(read) } else { Err(too_large(&format!("over {most} bytes"))) };
            std::future::ready(result)
        });
    let read = read.await?;
    *left -= read.len();
    Ok(read.into())
}

/// What comes of a form, until its budget is used up: the form's parser keeps whatever it finds no
/// end of.
fn bounded(body: Body, budget: Arc<AtomicUsize>) -> impl Stream<Item = Result<Bytes, BoxError>> {
    body.into_data_stream().map(move |bytes| {
        let bytes = bytes?;
        let left = budget.load(Ordering::Relaxed).checked_sub(bytes.len()).ok_or(TooMuch)?;
        budget.store(left, Ordering::Relaxed);
        Ok(bytes)
    })
}

/// A form has more bytes beside its parts' contents than it may have.
#[derive(Debug, thiserror::Error)]
#[error("over {HEADS} bytes beside the contents of its parts")]
struct TooMuch;

fn bad_form(error: &multer::Error) -> Problem {
    match error {
        multer::Error::StreamReadFailed(error) if error.is::<TooMuch>() => {
            too_large(&error.to_string())
        }
        error => Problem::bad_request(format!("the form: {error}")),
    }
}

fn too_large(what: &str) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("the request has {what}"))
}
