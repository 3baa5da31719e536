//! The inside of a VM, as its supervisor lets us reach it.
//!
//! The guest is hostile once it has run a caller's code: what it says is bounded before it is
//! parsed, and each call ends by its deadline, however many answers come.

mod channel;
mod error;
pub(super) mod frame;
mod run;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UnixStream;
use tokio::time::Instant;

use channel::Channel;
pub use error::GuestError;
pub(super) use frame::Start;
pub use frame::Stream;
use frame::{MAX_PAYLOAD, Report, Request};
pub(super) use run::{Ran, Run};

/// How long the supervisor may take for an answer that needs no work: a loaded machine under
/// emulation is slow.
const ANSWER: Duration = Duration::from_secs(30);
const SEED: usize = 64;

/// A guest that we are connected to.
#[derive(Debug)]
pub(super) struct Guest {
    channel: Channel,
    /// A renewal was asked for, and its answer isn't read yet.
    renewing: bool,
    /// A call was dropped in its middle: a program may run, and answers may come.
    torn: bool,
    /// By then it had asked for all to be killed, and its answer comes too.
    cancelling: bool,
}

impl Guest {
    pub(super) fn new(stream: UnixStream) -> Self {
        let channel = Channel::new(stream);
        Self { channel, renewing: false, torn: false, cancelling: false }
    }

    /// Waits until the supervisor of a guest that boots has begun.
    pub(super) async fn begun(&mut self, deadline: Instant) -> Result<(), GuestError> {
        match self.channel.next_until(deadline, "it has not booted").await? {
            Report::Ready => Ok(()),
            _ => Err(GuestError::Unasked("a report before it is ready")),
        }
    }

    /// Asks the guest to take a new seed, clock, hostname and machine id, and a disk to write to: all of
    /// `disk` bytes, if it has grown.
    /// To be done after each boot or resume, and before any other code; the answer is waited for
    /// with the next that is asked.
    pub(super) fn renew(&mut self, hostname: &str, disk: Option<u64>) -> Result<(), GuestError> {
        let seed: [u8; SEED] = rand::random();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.renewing = true;
        self.channel.send(&[Request::Renew { time, disk, hostname, seed: &seed }])
    }

    /// Waits for the answer of a renewal, if one is due.
    pub(super) async fn renewed(&mut self, deadline: Instant) -> Result<(), GuestError> {
        while self.renewing {
            match self.channel.next_until(deadline, "it was not renewed").await? {
                Report::Renewed => self.renewing = false,
                Report::Waiting => {}
                Report::Fail(why) => return Err(GuestError::Refused(why)),
                _ => return Err(GuestError::Unasked("a report while it is renewed")),
            }
        }
        Ok(())
    }

    /// Has an interpreter start, in the place of one that waits.
    pub(super) fn prepare(&mut self, start: &Start) -> Result<(), GuestError> {
        self.channel.send(&[Request::Prepare(start)])
    }

    /// Waits until the interpreter that was prepared waits for its code.
    pub(super) async fn prepared(&mut self, deadline: Instant) -> Result<(), GuestError> {
        self.renewed(deadline).await?;
        match self.channel.next_until(deadline, "the interpreter doesn't start").await? {
            Report::Waiting => Ok(()),
            Report::Fail(why) => Err(GuestError::Refused(why)),
            _ => Err(GuestError::Unasked("a report while an interpreter starts")),
        }
    }

    /// Makes a file in the guest, in the place of one that is there.
    pub(super) async fn put(
        &mut self,
        path: &str,
        mode: u32,
        bytes: &[u8],
        deadline: Instant,
    ) -> Result<(), GuestError> {
        self.in_step(deadline).await?;
        let mut requests = vec![Request::Put { mode, path }];
        requests.extend(bytes.chunks(MAX_PAYLOAD).map(Request::Data));
        requests.push(Request::Data(&[]));
        self.channel.send(&requests)?;
        self.torn = true;
        let result = loop {
            match self.channel.next_until(deadline, "the file is not written").await? {
                Report::Waiting => {}
                Report::Done => break Ok(()),
                Report::Fail(why) => break Err(GuestError::Refused(why)),
                _ => return Err(GuestError::Unasked("a report while a file is written")),
            }
        };
        self.torn = false;
        result
    }

    /// Reads a file of at most `limit` bytes from the guest.
    pub(super) async fn get(
        &mut self,
        path: &str,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, GuestError> {
        self.in_step(deadline).await?;
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        self.channel.send(&[Request::Get { limit: most, path }])?;
        self.torn = true;
        let mut file = Vec::new();
        let result = loop {
            match self.channel.next_until(deadline, "the file does not come").await? {
                Report::Waiting => {}
                Report::Chunk(bytes) if bytes.is_empty() => break Ok(file),
                Report::Chunk(bytes) if file.len() + bytes.len() <= limit => file.extend(bytes),
                Report::Chunk(_) => return Err(GuestError::Unasked("more than was asked for")),
                Report::Fail(why) => break Err(GuestError::Refused(why)),
                _ => return Err(GuestError::Unasked("a report while a file is read")),
            }
        };
        self.torn = false;
        result
    }

    /// Ends what a dropped call left, and waits for a renewal's answer: then what comes next is
    /// the answer to what is asked next.
    async fn in_step(&mut self, deadline: Instant) -> Result<(), GuestError> {
        self.renewed(deadline).await?;
        if self.torn {
            let deadline = deadline.min(Instant::now() + ANSWER);
            if !self.cancelling {
                self.channel.send(&[Request::Cancel])?;
                self.cancelling = true;
            }
            let what = "it goes on with what was given up";
            while self.channel.next_until(deadline, what).await? != Report::Cancelled {}
            (self.torn, self.cancelling) = (false, false);
        }
        Ok(())
    }
}
