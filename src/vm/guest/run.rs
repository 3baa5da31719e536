//! Running one program in a guest.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::channel::Channel;
use super::frame::{Exit, Feed, MAX_PAYLOAD, Report, Request, Start, Stream, WINDOW};
use super::{Guest, GuestError};
use crate::vm::execution::End;

/// How long killed programs may take to be gone, and what they wrote to be read.
const GRACE: Duration = Duration::from_secs(10);
/// The permissions of code's file.
const MODE: u32 = 0o600;

/// A program, and what it may do.
#[derive(Debug)]
pub(in crate::vm) struct Run<'a> {
    /// What to start; none for the interpreter that waits.
    pub(in crate::vm) start: Option<&'a Start>,
    /// What it finds on its descriptor 3; or else in this file, which is made for it.
    pub(in crate::vm) code: &'a [u8],
    pub(in crate::vm) file: Option<&'a str>,
    /// How many bytes of each output come.
    pub(in crate::vm) limit: usize,
    /// When all of the guest's processes are killed.
    pub(in crate::vm) deadline: Instant,
}

/// What became of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::vm) struct Ran {
    pub(in crate::vm) end: End,
    /// Whether there was more standard output, and more standard error.
    pub(in crate::vm) cut: [bool; 2],
}

impl Guest {
    /// Runs a program to its end, and sends what it writes to `output` as it comes. Once its time
    /// is over, or nobody takes its output any more, all of the guest's processes are killed.
    pub(in crate::vm) async fn run(
        &mut self,
        run: Run<'_>,
        input: impl AsyncRead + Unpin,
        output: mpsc::Sender<(Stream, Vec<u8>)>,
    ) -> Result<Ran, GuestError> {
        let code = match run.file {
            Some(path) => {
                self.put(path, MODE, run.code, run.deadline).await?;
                &[]
            }
            None => run.code,
        };
        // After a renewal it begins at once: nothing is waited for in between.
        if self.torn {
            self.in_step(run.deadline + GRACE).await?;
        }
        let limit = u64::try_from(run.limit).unwrap_or(u64::MAX);
        self.channel.send(&[Request::Run { limit, start: run.start }])?;
        self.torn = true;
        let mut job = Job {
            channel: &mut self.channel,
            renewing: &mut self.renewing,
            cancelling: &mut self.cancelling,
            output,
            code: Some(code),
            credit: [WINDOW; 2],
            left: [run.limit; 2],
            ran: Ran { end: End::TimedOut, cut: [false; 2] },
            cancelled: None,
            deadline: run.deadline,
        };
        let ran = job.run(input).await?;
        (self.torn, self.cancelling) = (false, false);
        Ok(ran)
    }
}

/// A program that was started.
struct Job<'a> {
    channel: &'a mut Channel,
    renewing: &'a mut bool,
    cancelling: &'a mut bool,
    output: mpsc::Sender<(Stream, Vec<u8>)>,
    /// The code that wasn't sent yet; none once its end was.
    code: Option<&'a [u8]>,
    /// How many bytes of code and of input may be sent.
    credit: [usize; 2],
    /// How many bytes of each output may come.
    left: [usize; 2],
    ran: Ran,
    /// What the program's end is called if we killed all processes.
    cancelled: Option<End>,
    deadline: Instant,
}

impl Job<'_> {
    async fn run(&mut self, mut input: impl AsyncRead + Unpin) -> Result<Ran, GuestError> {
        let (mut bytes, mut open) = (vec![0; 16 << 10], true);
        self.send_code()?;
        loop {
            let room = self.credit[1].min(bytes.len());
            let cancelled = self.cancelled.is_some();
            tokio::select! {
                report = self.channel.next() => {
                    if self.hear(report?).await? {
                        return Ok(self.ran);
                    }
                }
                read = input.read(&mut bytes[..room]), if open && room > 0 => {
                    let read = read.unwrap_or(0);
                    open = read > 0;
                    self.credit[1] -= read;
                    self.channel.send(&[Request::Feed(Feed::Input, &bytes[..read])])?;
                }
                () = sleep_until(self.deadline), if !cancelled => self.cancel(End::TimedOut)?,
                () = self.output.closed(), if !cancelled => self.cancel(End::Signal(9))?,
                () = sleep_until(self.deadline + GRACE) => {
                    return Err(GuestError::Silent("it does not end what it runs"));
                }
            }
        }
    }

    /// Takes a report in; says whether it is the last.
    async fn hear(&mut self, report: Report) -> Result<bool, GuestError> {
        match report {
            Report::Waiting => {}
            Report::Renewed if *self.renewing => *self.renewing = false,
            Report::Fail(why) => return Err(GuestError::Refused(why)),
            _ if *self.renewing => {
                return Err(GuestError::Unasked("a report before it is renewed"));
            }
            Report::Begun => {}
            Report::Output(stream, bytes) => {
                let left = &mut self.left[usize::from(stream == Stream::Stderr)];
                let over = GuestError::Unasked("more output than it may send");
                *left = left.checked_sub(bytes.len()).ok_or(over)?;
                self.pass_on(stream, bytes).await?;
            }
            Report::Cut(stream) => self.ran.cut[usize::from(stream == Stream::Stderr)] = true,
            Report::Taken(feed, bytes) => {
                let credit = &mut self.credit[usize::from(feed == Feed::Input)];
                *credit = credit.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
                if *credit > WINDOW {
                    return Err(GuestError::Unasked("more taken than was sent"));
                }
                self.send_code()?;
            }
            Report::Exit(exit) => {
                self.ran.end = match (exit, self.cancelled) {
                    (Exit::Signal(9), Some(end)) => end,
                    (Exit::Signal(signal), _) => End::Signal(signal.into()),
                    (Exit::Code(code), _) => End::Code(code.into()),
                };
                return Ok(self.cancelled.is_none());
            }
            Report::Cancelled if self.cancelled.is_some() => return Ok(true),
            _ => return Err(GuestError::Unasked("a report that doesn't belong to a program")),
        }
        Ok(false)
    }

    /// Passes output on. The guest is not read meanwhile, and so waits too. Where a part is lost to
    /// who takes it slowly, the output is cut: nothing comes after a hole.
    async fn pass_on(&mut self, stream: Stream, bytes: Vec<u8>) -> Result<(), GuestError> {
        let cut = &mut self.ran.cut[usize::from(stream == Stream::Stderr)];
        if *cut {
            return Ok(());
        }
        if self.cancelled.is_some() {
            // Whoever stopped taking it shall not stop the end.
            let sent = self.output.try_send((stream, bytes));
            *cut = matches!(sent, Err(TrySendError::Full(_)));
            return Ok(());
        }
        tokio::select! {
            _ = self.output.send((stream, bytes)) => Ok(()),
            () = sleep_until(self.deadline) => {
                *cut = true;
                self.cancel(End::TimedOut)
            }
        }
    }

    fn cancel(&mut self, end: End) -> Result<(), GuestError> {
        self.cancelled = Some(end);
        // A guest that doesn't obey is waited for from now on, not from when its time were over.
        self.deadline = self.deadline.min(Instant::now());
        *self.cancelling = true;
        self.channel.send(&[Request::Cancel])
    }

    /// Sends as much of the code as the guest has room for.
    fn send_code(&mut self) -> Result<(), GuestError> {
        let Some(code) = self.code else { return Ok(()) };
        let (now, later) = code.split_at(code.len().min(self.credit[0]));
        self.credit[0] -= now.len();
        let mut requests: Vec<_> =
            now.chunks(MAX_PAYLOAD).map(|bytes| Request::Feed(Feed::Code, bytes)).collect();
        if later.is_empty() {
            requests.push(Request::Feed(Feed::Code, &[]));
        }
        self.code = Some(later).filter(|later| !later.is_empty());
        self.channel.send(&requests)
    }
}
