//! A client's connection, over which descriptors can be handed over beside the bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::unreceived::Counted;
use crate::api::descriptors;

/// What handlers have of a client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    stream: Arc<OwnedWriteHalf>,
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
        let waiting = if end.holders == 0 { end.waiting.take() } else { None };
        drop(end);
        if let Some(waiting) = waiting {
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
        descriptors::is_hung_up(self.stream())
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

    fn stream(&self) -> &UnixStream {
        (*self.stream).as_ref()
    }

    /// Our end, for as long as it is held.
    pub(super) fn ours(&self) -> &Arc<OwnedWriteHalf> {
        &self.stream
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(OwnedFd, Counted)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket that sends descriptors (`SCM_RIGHTS`) with the bytes that are written to it.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: OwnedReadHalf,
    channel: Channel,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> (Self, Channel) {
        let (reader, writer) = stream.into_split();
        let channel =
            Channel { stream: Arc::new(writer), queue: Arc::default(), end: Arc::default() };
        (Self { reader, channel: channel.clone() }, channel)
    }

    /// Tries a write until it is done, or there is no room for it.
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let stream = self.channel.stream();
            ready!(stream.poll_write_ready(cx))?;
            match write(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Sends what it can of `bytes`, and the first waiting descriptor with it; none where no
    /// descriptor waits.
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Option<io::Result<usize>>> {
        // Held for a system call that doesn't block.
        let mut queue = self.channel.queue();
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        let mut end = self.channel.end();
        end.seen |= end.holders == 0;
        if !end.seen {
            end.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::task::yield_now;

    use super::*;

    /// What is being done for a client that says no more is answered by all who do it.
    #[tokio::test]
    async fn the_end_is_seen_once_nobody_works_for_the_client() {
        let (client, ours) = UnixStream::pair().expect("a pair");
        let (mut connection, channel) = Connection::new(ours);
        let [first, second] = [(); 2].map(|()| channel.listening().expect("no end was seen"));
        drop(client);
        let reading = tokio::spawn(async move { connection.read(&mut [0]).await });
        while channel.end().waiting.is_none() {
            yield_now().await;
        }
        drop(first);
        assert!(channel.end().waiting.is_some(), "the other one works for it");
        drop(second);
        assert_eq!(reading.await.expect("it ends").expect("no failure"), 0);
        assert!(channel.listening().is_none(), "its end was seen");
    }
}
