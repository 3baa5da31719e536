//! A client's connection, over which descriptors can be handed over beside the bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::api::descriptors;

/// Descriptors that go out with the next bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptors(Arc<Mutex<VecDeque<OwnedFd>>>);

impl Descriptors {
    /// Has `descriptor` go out with the first byte that is written from now on.
    pub(crate) fn attach(&self, descriptor: OwnedFd) {
        self.queue().push_back(descriptor);
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket that sends descriptors (`SCM_RIGHTS`) with the bytes that are written to it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    descriptors: Descriptors,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> (Self, Descriptors) {
        let descriptors = Descriptors::default();
        (Self { stream, descriptors: descriptors.clone() }, descriptors)
    }

    /// Sends what it can of `bytes`, and the first waiting descriptor with it; none where no
    /// descriptor waits.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        // Held for a system call that doesn't block.
        let mut queue = self.descriptors.queue();
        let Some(descriptor) = queue.front() else { return Poll::Ready(None) };
        loop {
            if let Err(error) = ready!(self.stream.poll_write_ready(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            let send = || descriptors::send(&self.stream, bytes, descriptor);
            match self.stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(sent) => {
                    queue.pop_front();
                    return Poll::Ready(Some(Ok(sent)));
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_send(cx, bytes)) {
            Some(sent) => Poll::Ready(sent),
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        match ready!(self.poll_send(cx, first.map_or(&[], |slice| slice))) {
            Some(sent) => Poll::Ready(sent),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
        }
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
