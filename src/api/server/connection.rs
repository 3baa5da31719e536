//! A client's connection, over which descriptors can be handed over beside the bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::unreceived::Counted;
use crate::api::descriptors;

/// What handlers have of a client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    stream: Arc<UnixStream>,
    /// Descriptors that go out with the next bytes.
    queue: Arc<Mutex<VecDeque<(OwnedFd, Counted)>>>,
    end: Arc<Mutex<End>>,
}

/// When the end of what the client says may be seen, and who waits to see it.
#[derive(Debug, Default)]
struct End {
    seen: bool,
    holders: usize,
    waiting: Option<Waker>,
}

/// For as long as this is there, the end of what the client says isn't seen, so that what is being
/// done for it is answered.
#[derive(Debug)]
pub(super) struct Listening(Arc<Mutex<End>>);

impl Drop for Listening {
    fn drop(&mut self) {
        let mut end = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.holders -= 1;
        if end.holders == 0
            && let Some(waiting) = end.waiting.take()
        {
            waiting.wake();
        }
    }
}

impl Channel {
    /// Has `descriptor` go out with the first byte that is written from now on.
    pub(crate) fn attach(&self, descriptor: OwnedFd, counted: Counted) {
        self.queue().push_back((descriptor, counted));
    }

    /// Whether the client has hung up, and so hears no answer. One that only says nothing more
    /// still listens.
    pub(crate) fn is_hung_up(&self) -> bool {
        descriptors::is_hung_up(&self.stream)
    }

    /// Has the client taken for one that listens, unless its end was seen.
    pub(super) fn listening(&self) -> Option<Listening> {
        let mut end = self.end();
        end.holders += usize::from(!end.seen);
        (!end.seen).then(|| Listening(Arc::clone(&self.end)))
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stream(&self) -> &Arc<UnixStream> {
        &self.stream
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(OwnedFd, Counted)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket that sends descriptors (`SCM_RIGHTS`) with the bytes that are written to it.
#[derive(Debug)]
pub(crate) struct Connection(Channel);

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> (Self, Channel) {
        let channel =
            Channel { stream: Arc::new(stream), queue: Arc::default(), end: Arc::default() };
        (Self(channel.clone()), channel)
    }

    /// Tries a write until it is done, or there is no room for it.
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends what it can of `bytes`, and the first waiting descriptor with it; none where no
    /// descriptor waits.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        // Held for a system call that doesn't block.
        let mut queue = self.0.queue();
        let Some((descriptor, _)) = queue.front() else { return Poll::Ready(None) };
        let sent = ready!(self.poll_try(cx, |stream| {
            stream.try_io(Interest::WRITABLE, || descriptors::send(stream, bytes, descriptor))
        }));
        if sent.is_ok() {
            queue.pop_front();
        }
        Poll::Ready(Some(sent))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    let mut end = self.0.end();
                    end.seen |= count == 0 && end.holders == 0;
                    if count == 0 && !end.seen {
                        end.waiting = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    drop(end);
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(self.poll_send(cx, bytes)) {
            Some(sent) => Poll::Ready(sent),
            None => self.poll_try(cx, |stream| stream.try_write(bytes)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty());
        match ready!(self.poll_send(cx, first.map_or(&[], |slice| slice))) {
            Some(sent) => Poll::Ready(sent),
            None => self.poll_try(cx, |stream| stream.try_write_vectored(slices)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It ends when nothing works for it any more.
        Poll::Ready(Ok(()))
    }
}
