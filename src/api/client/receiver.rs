//! A socket that keeps the descriptors which come with its bytes.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::api::descriptors;

/// What went over a connection since a question began.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic(Arc<Passed>);

#[derive(Debug, Default)]
struct Passed {
    sent: AtomicBool,
    descriptors: Mutex<Vec<OwnedFd>>,
}

impl Traffic {
    /// Forgets what went before.
    pub(super) fn begin(&self) {
        self.0.sent.store(false, Ordering::Relaxed);
        self.descriptors().clear();
    }

    /// Whether a byte was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.0.sent.load(Ordering::Relaxed)
    }

    pub(super) fn take_descriptors(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.descriptors())
    }

    fn descriptors(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket that keeps the descriptors (`SCM_RIGHTS`) which come with the bytes read from it.
///
/// It reads nothing before the first byte was sent: a server that turns its client away answers
/// before it is asked.
#[derive(Debug)]
pub(super) struct Receiver {
    stream: UnixStream,
    traffic: Traffic,
    /// Whether a byte was ever sent.
    asked: bool,
    /// Who waits to read until then.
    reader: Option<Waker>,
}

impl Receiver {
    pub(super) fn new(stream: UnixStream) -> (Self, Traffic) {
        let traffic = Traffic::default();
        (Self { stream, traffic: traffic.clone(), asked: false, reader: None }, traffic)
    }

    fn note_sent(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.asked = true;
            self.traffic.0.sent.store(true, Ordering::Relaxed);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let (received, descriptors) = descriptors::receive(&self.stream, bytes)?;
        self.traffic.descriptors().extend(descriptors);
        Ok(received)
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let receive = || self.receive(buffer.initialize_unfilled());
            match self.stream.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(received) => {
                    buffer.advance(received);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Receiver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_sent(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
