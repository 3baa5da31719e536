//! The connection to a guest's supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use super::error::GuestError;
use super::frame::{Decoder, MAX_PAYLOAD, Report, Request, WINDOW};

/// How many bytes are read at once.
const BUFFER: usize = 16 << 10;
/// The most bytes that may wait here when the guest says that it took some: two windows, of which
/// one may go byte by byte, each in a frame of its own, need less.
const UNSENT: usize = 8 * WINDOW;
/// How many reports without content may come before something is sent again. Of a program there
/// are five: it waits, begins, both outputs are cut, it ends.
const EMPTY: usize = 16;

/// Requests out, reports in. A call that is dropped leaves no half of a frame: a task of its own
/// writes. What it holds is bounded, since no more code and input is sent than was taken, and
/// nothing can be taken that is still here.
#[derive(Debug)]
pub(super) struct Channel {
    reader: OwnedReadHalf,
    decoder: Decoder,
    /// What is read goes here first.
    buffer: Box<[u8]>,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    /// How many bytes wait there.
    unsent: Arc<AtomicUsize>,
    /// How many reports without content have come since something was sent.
    empty: usize,
    _writer: JoinSet<()>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        let unsent = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(write(writer, frames, Arc::clone(&unsent)));
        let (decoder, buffer) = (Decoder::default(), vec![0; BUFFER].into_boxed_slice());
        Self { reader, decoder, buffer, outgoing, unsent, empty: 0, _writer: task }
    }

    /// Sends requests, all or none of them. That QEMU has gone shows when the answer is read.
    pub(super) fn send(&mut self, requests: &[Request<'_>]) -> Result<(), GuestError> {
        let mut frames = Vec::new();
        for request in requests {
            let what = match request {
                Request::Put { .. } | Request::Get { .. } => "the file's path",
                _ => "the program's arguments and environment",
            };
            let too_long = |_| GuestError::TooLong { what, limit: MAX_PAYLOAD };
            request.encode(&mut frames).map_err(too_long)?;
        }
        self.empty = 0;
        self.unsent.fetch_add(frames.len(), Ordering::Relaxed);
        let _ = self.outgoing.send(frames);
        Ok(())
    }

    /// The next report. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Report, GuestError> {
        // Others come to their turn, however many reports wait.
        consume_budget().await;
        loop {
            if let Some(report) = self.decoder.next()? {
                return self.judged(report);
            }
            match self.reader.read(&mut self.buffer).await {
                Ok(read @ 1..) => self.decoder.push(&self.buffer[..read]),
                _ => return Err(GuestError::Closed),
            }
        }
    }

    /// Whether the guest may say so now.
    fn judged(&mut self, report: Report) -> Result<Report, GuestError> {
        let why = match report {
            Report::Taken(_, 1..) if self.unsent.load(Ordering::Relaxed) > UNSENT => {
                "taken before it was sent"
            }
            Report::Output(..) | Report::Chunk(_) | Report::Taken(_, 1..) => return Ok(report),
            _ if self.empty == EMPTY => "reports that mean nothing",
            _ => {
                self.empty += 1;
                return Ok(report);
            }
        };
        Err(GuestError::Unasked(why))
    }

    /// The next report, until the deadline.
    pub(super) async fn next_until(
        &mut self,
        deadline: Instant,
        what: &'static str,
    ) -> Result<Report, GuestError> {
        timeout_at(deadline, self.next()).await.unwrap_or(Err(GuestError::Silent(what)))
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    unsent: Arc<AtomicUsize>,
) {
    while let Some(frames) = frames.recv().await {
        if writer.write_all(&frames).await.is_err() {
            return;
        }
        unsent.fetch_sub(frames.len(), Ordering::Relaxed);
    }
}
