//! A client's connection, over which descriptors can be handed over beside the bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::io::{Errno, read};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::unreceived::Counted;
use crate::api::descriptors;
use crate::sys::told_of;

/// How many bytes are read at once at most.
const READ_AT_ONCE: usize = 8 << 10;

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

    /// Our end, for as long as it is held.
    pub(super) fn ours(&self) -> &Arc<UnixStream> {
        &self.stream
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(OwnedFd, Counted)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Unix socket that sends descriptors (`SCM_RIGHTS`) with the bytes that are written to it.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    /// Tells when there is something to read, once that was waited for.
    told: Option<AsyncFd<Arc<UnixStream>>>,
    /// Whether it tells of room to write too, since a write had to wait for some. Before, it would tell
    /// of each answer that the client has received.
    tells_of_room: bool,
}

impl Connection {
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<(Self, Channel)> {
        let stream = Arc::new(stream.into_std()?);
        let channel = Channel { stream, queue: Arc::default(), end: Arc::default() };
        Ok((Self { channel: channel.clone(), told: None, tells_of_room: false }, channel))
    }

    /// Has the runtime tell of `interest` from now on, and of nothing else.
    fn tell(&mut self, interest: Interest) -> io::Result<&AsyncFd<Arc<UnixStream>>> {
        // A socket can't be registered twice.
        self.told = None;
        Ok(self.told.insert(told_of(interest, Arc::clone(&self.channel.stream))?))
    }

    /// Reads what there is.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        // Not cleared: of most requests there is little, and they come by the thousand.
        let mut room = [MaybeUninit::uninit(); READ_AT_ONCE];
        let room = &mut room[..READ_AT_ONCE.min(buffer.remaining())];
        loop {
            let there = match &self.told {
                Some(told) => Some(ready!(told.poll_read_ready(cx))?),
                None => None,
            };
            match read(&self.channel.stream, &mut *room) {
                Ok((heard, left)) => {
                    // It was all, so that there is no need to try again (`epoll(7)`).
                    if let Some(mut there) = there
                        && !(heard.is_empty() || left.is_empty())
                    {
                        there.clear_ready();
                    }
                    buffer.put_slice(heard);
                    return Poll::Ready(Ok(heard.len()));
                }
                Err(Errno::AGAIN) => match there {
                    Some(mut there) => there.clear_ready(),
                    None => _ = self.tell(Interest::READABLE)?,
                },
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Waits for room to write.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.tells_of_room {
            let told = self.tell(Interest::READABLE | Interest::WRITABLE)?;
            // Who waits to read is this task too, and was to be woken by the one before.
            if told.poll_read_ready(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            self.tells_of_room = true;
        }
        if let Some(told) = &self.told {
            ready!(told.poll_write_ready(cx))?.clear_ready();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what there is room for, and sends the first waiting descriptor with it.
    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = &*self.channel.stream;
        // Held for a system call that doesn't block.
        let mut queue = self.channel.queue();
        let Some((descriptor, _)) = queue.front() else { return stream.write_vectored(slices) };
        let sent = descriptors::send(stream, slices, descriptor)?;
        queue.pop_front();
        Ok(sent)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if ready!(self.poll_receive(cx, buffer))? > 0 {
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
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.write(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            ready!(self.poll_room(cx))?;
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
    use std::fs;
    use std::future::poll_fn;
    use std::mem;
    use std::os::fd::AsRawFd;

    use rustix::net::sockopt::set_socket_send_buffer_size;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::yield_now;

    use super::*;

    fn pair() -> (UnixStream, Connection, Channel) {
        let (client, ours) = UnixStream::pair().expect("a pair");
        set_socket_send_buffer_size(&ours, 4096).expect("it is set");
        let (connection, channel) = Connection::new(ours).expect("a connection");
        (client, connection, channel)
    }

    /// Whether a connection has nothing to read, and waits for it.
    fn waits(connection: &mut Connection, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        Pin::new(connection).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Writes until there is no room.
    fn fill(connection: &mut Connection, cx: &mut Context<'_>) {
        while Pin::new(&mut *connection).poll_write(cx, &[1; 4096]).is_ready() {}
    }

    /// What the runtime's `epoll` was asked to tell of a socket (`proc_pid_fdinfo(5)`).
    fn waited_for(socket: &impl AsRawFd) -> i32 {
        let socket = socket.as_raw_fd().to_string();
        let files = fs::read_dir("/proc/self/fdinfo").expect("a list of what is open").flatten();
        // One may be closed meanwhile.
        let told = files.flat_map(|file| fs::read_to_string(file.path())).find_map(|told| {
            told.lines().find_map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let ["tfd:", of, "events:", events, ..] = words[..] else { return None };
                (of == socket).then(|| u32::from_str_radix(events, 16).expect("a number"))
            })
        });
        told.expect("it is registered").cast_signed()
    }

    /// What a client receives makes room, which wakes nobody.
    #[tokio::test]
    async fn of_room_nobody_is_told_who_waits_for_none() {
        let (mut client, mut connection, channel) = pair();
        client.write_all(b"asked").await.expect("sent");
        assert_eq!(connection.read(&mut [0; 16]).await.expect("there is something"), 5);
        let waiting = poll_fn(|cx| Poll::Ready(waits(&mut connection, cx))).await;
        assert!(waiting, "there is nothing more");
        let told = || waited_for(&channel.stream) & (libc::EPOLLIN | libc::EPOLLOUT);
        assert_eq!(told(), libc::EPOLLIN);
        connection.write_all(b"answer").await.expect("there is room");
        client.read_exact(&mut [0; 6]).await.expect("an answer");
        assert_eq!(told(), libc::EPOLLIN);
    }

    /// There is more than is read at once, and nobody is told of it again.
    #[tokio::test]
    async fn all_is_heard_of_who_says_much() {
        let (mut client, mut connection, _) = pair();
        let said: Vec<u8> = (0..=u8::MAX).cycle().take(3 * READ_AT_ONCE).collect();
        let waiting = poll_fn(|cx| Poll::Ready(waits(&mut connection, cx))).await;
        assert!(waiting, "nothing was said yet");
        client.write_all(&said).await.expect("sent");
        let mut heard = vec![0; said.len()];
        connection.read_exact(&mut heard).await.expect("all of it");
        assert!(heard == said, "it is something else");
    }

    /// Who waits to read still does when a write comes to wait for room.
    #[tokio::test]
    async fn what_is_said_while_a_write_waits_for_room_is_heard() {
        let (client, mut connection, _) = pair();
        let mut client = client.into_std().expect("a socket");
        let mut has_said = false;
        let hears = poll_fn(|cx| {
            if !waits(&mut connection, cx) {
                return Poll::Ready(());
            }
            if !mem::replace(&mut has_said, true) {
                fill(&mut connection, cx);
                client.write_all(b"?").expect("said");
            }
            Poll::Pending
        });
        hears.await;
    }

    /// An answer that its client is slow to receive arrives.
    #[tokio::test]
    async fn what_has_no_room_is_written_once_there_is_some() {
        let (mut client, mut connection, _) = pair();
        let answer: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 18).collect();
        let sent = answer.clone();
        let writing = tokio::spawn(async move {
            connection.write_all(&sent).await.expect("a client that listens");
            connection.tells_of_room
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("all of it");
        assert!(received == answer, "it is another");
        assert!(writing.await.expect("it ends"), "there was room for all of it");
    }

    /// What is being done for a client that says no more is answered by all who do it.
    #[tokio::test]
    async fn the_end_is_seen_once_nobody_works_for_the_client() {
        let (client, mut connection, channel) = pair();
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
