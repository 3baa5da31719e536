//! The code, and all that it is run with.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll};
use std::thread;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;

use super::Exec;
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;

/// The code that is taken, at most: it is kept in the guest's memory.
const MAX_CODE: u64 = 32 << 20;

/// Code with its arguments and variables.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) code: Vec<u8>,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Whether it may read what we are given.
    pub(super) reads: bool,
}

impl Job {
    pub(super) fn of(exec: &Exec) -> Result<Self, Failure> {
        let text = |argument: &OsString| {
            let text = argument.to_str().map(str::to_owned);
            text.ok_or_else(|| {
                let cause = format!("{}: not valid UTF-8", argument.display());
                Failure::new(Exit::Usage, cause, "give the code's arguments as text")
            })
        };
        let (code, name, arguments, reads) = match (&exec.code, exec.rest.split_first()) {
            (Some(code), _) => (code.clone().into_bytes(), "-c".to_owned(), &*exec.rest, true),
            (None, Some((file, arguments))) if file != "-" => {
                let path = PathBuf::from(file);
                let opened = std::fs::File::open(&path);
                let code = opened.and_then(read_code).map_err(|error| unread(file, &error))?;
                (code, text(file)?, arguments, true)
            }
            (None, rest) => {
                let code = read_code(io::stdin().lock());
                let code = code.map_err(|error| unread(&"standard input".into(), &error))?;
                (code, "-".to_owned(), rest.map_or(&[][..], |(_, arguments)| arguments), false)
            }
        };
        let variable = |variable: &String| match variable.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => {
                std::env::var(variable).map(|value| (variable.clone(), value)).map_err(|error| {
                    let cause = format!("--env {variable}: {error}");
                    Failure::new(Exit::Usage, cause, "or give NAME=VALUE")
                })
            }
        };
        Ok(Self {
            code,
            name,
            arguments: arguments.iter().map(text).collect::<Result<_, _>>()?,
            environment: exec.env.iter().map(variable).collect::<Result<_, _>>()?,
            reads,
        })
    }
}

/// What we are given on the standard input. A thread reads it, which may never come to its end:
/// the program's doesn't wait for it. It begins when it is first asked to.
#[derive(Debug)]
pub(super) struct Stdin {
    stream: UnixStream,
    begin: Option<Sender<()>>,
}

impl Stdin {
    pub(super) fn new() -> Result<Self, Failure> {
        let pair = || {
            let (ours, mut theirs) = StdUnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let (begin, begun) = channel();
            thread::Builder::new().spawn(move || {
                if begun.recv().is_ok() {
                    let _ = io::copy(&mut io::stdin().lock(), &mut theirs);
                }
            })?;
            Ok(Self { stream: UnixStream::from_std(ours)?, begin: Some(begin) })
        };
        pair().map_err(|error: io::Error| {
            let cause = format!("can't pass the standard input on: {error}");
            Failure::new(Exit::NotRun, cause, "raise the limit of open files")
        })
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(begin) = self.begin.take() {
            let _ = begin.send(());
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

fn read_code(from: impl Read) -> io::Result<Vec<u8>> {
    let mut code = Vec::new();
    from.take(MAX_CODE + 1).read_to_end(&mut code)?;
    if code.len() as u64 > MAX_CODE {
        return Err(io::Error::other(format!(
            "more than the {} MiB that code may have",
            MAX_CODE >> 20
        )));
    }
    Ok(code)
}

fn unread(name: &OsString, error: &io::Error) -> Failure {
    let looks_like_code = name.to_string_lossy().contains(['(', ' ', '\n', ';', '"', '\'']);
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    let advice = if looks_like_code && is_missing { "give code with -c" } else { "check the path" };
    Failure::new(Exit::NotRun, format!("{}: {error}", name.display()), advice)
}
