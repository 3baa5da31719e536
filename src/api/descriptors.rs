//! Open files that go over a Unix socket beside the bytes (`SCM_RIGHTS`).

use std::io;
use std::mem::MaybeUninit;
#[cfg(feature = "server")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use tokio::net::UnixStream;

/// Sends what it can of `bytes`, and `descriptor` with the first of them.
#[cfg(feature = "server")]
pub(super) fn send(stream: &UnixStream, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(stream, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
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
