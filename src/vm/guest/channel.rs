//! The connection to a guest's supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::error::GuestError;
use super::frame::{Decoder, MAX_PAYLOAD, Report, Request, WINDOW};

/// How many bytes are read at once.
const BUFFER: usize = 16 << 10;
/// The most bytes that may wait here when the guest says that it took some: two windows, of which
/// one may go byte by byte, each in a frame of its own, need less.
const UNSENT: usize = 8 * WINDOW;

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
        Self { reader, decoder, buffer, outgoing, unsent, _writer: task }
    }

    /// Sends requests, all or none of them. That QEMU has gone shows when the answer is read.
    pub(super) fn send(&self, requests: &[Request<'_>]) -> Result<(), GuestError> {
        let mut frames = Vec::new();
        for request in requests {
            let too_long = |_| GuestError::TooLong {
                what: "the program's arguments and environment",
                limit: MAX_PAYLOAD,
            };
            request.encode(&mut frames).map_err(too_long)?;
        }
        self.unsent.fetch_add(frames.len(), Ordering::Relaxed);
        let _ = self.outgoing.send(frames);
        Ok(())
    }

    /// The next report. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Report, GuestError> {
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
    fn judged(&self, report: Report) -> Result<Report, GuestError> {
        let early = self.unsent.load(Ordering::Relaxed) > UNSENT;
        match report {
            Report::Taken(..) if early => Err(GuestError::Unasked("taken before it was sent")),
            _ => Ok(report),
        }
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
