//! Open files that go over a Unix socket beside the bytes (`SCM_RIGHTS`).

use std::io;
use std::mem::MaybeUninit;
#[cfg(feature = "server")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

#[cfg(feature = "client")]
use tokio::net::UnixStream;

/// Sends what it can of `slices`, and `descriptor` with the first byte.
#[cfg(feature = "server")]
pub(super) fn send(
    stream: impl AsFd,
    slices: &[io::IoSlice<'_>],
    descriptor: &OwnedFd,
) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(stream, slices, &mut ancillary, SendFlags::NOSIGNAL)?)
}

/// Whether the other side of a socket is closed, and not only says nothing more.
#[cfg(feature = "server")]
pub(super) fn is_hung_up(stream: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut looked_at = [PollFd::new(&stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut looked_at, Some(&now)).is_ok() && looked_at[0].revents().contains(PollFlags::HUP)
}

/// Receives what there is of bytes, and what came with them: one descriptor at most, since the
/// system closes what has no room, and answers bring one at most.
#[cfg(feature = "client")]
pub(super) fn receive(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let bytes = &mut [io::IoSliceMut::new(bytes)];
    let received = recvmsg(stream, bytes, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    Ok((received.bytes, descriptors))
}
