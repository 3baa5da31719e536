//! The frames between us and a guest's supervisor.
//!
//! The guest is not to be trusted: a frame's length is judged before its bytes are read, and what
//! it says becomes a value of a type or an error, whatever it is. Nothing here waits or reads.
//! Source: `fixtures/images/supervisor/supervisor.h`.

use std::time::Duration;

/// The most bytes that a frame carries.
pub(crate) const MAX_PAYLOAD: usize = 1 << 16;
/// The most bytes of code or input that may be under way.
pub(crate) const WINDOW: usize = 1 << 16;
/// A frame is one byte for its kind, three for its length (little endian), and its payload.
const HEADER: usize = 4;
/// The protocol that this side speaks.
const VERSION: u32 = 2;
/// How much of what the guest gives as a reason is kept, in characters.
const MAX_REASON: usize = 500;

/// Why a guest's bytes aren't frames of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The guest announced more bytes than a frame may have.
    #[error("a frame of {0} bytes, which is more than {MAX_PAYLOAD}")]
    TooLong(usize),
    /// There is no such kind of frame, or not with this content.
    #[error("a frame that makes no sense: kind {kind}, {length} bytes")]
    Malformed {
        /// The kind.
        kind: u8,
        /// How many bytes it carries.
        length: usize,
    },
    /// The supervisor is another one than ours.
    #[error("its protocol is version {0}, ours is {VERSION}: build the guest images anew")]
    Version(u32),
}

/// One of a program's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// Its descriptor 3: the code, for an interpreter that waits.
    Code,
    /// Its standard input.
    Input,
}

/// A program to start in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) arguments: Vec<String>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
}

/// What we ask the guest for.
#[derive(Debug)]
pub(crate) enum Request<'a> {
    /// Make the machine one of its own, with a disk of so many bytes, if it shall have more than before.
    Renew { time: Duration, disk: Option<u64>, hostname: &'a str, seed: &'a [u8] },
    /// Start an interpreter and let it wait.
    Prepare(&'a Start),
    /// Run a program, or what waits; of each output `limit` bytes are sent.
    Run { limit: u64, start: Option<&'a Start> },
    /// Bytes to read, none at their end.
    Feed(Feed, &'a [u8]),
    /// Kill every process.
    Cancel,
    /// Make a file of the data that comes.
    Put { mode: u32, path: &'a str },
    /// The file's bytes, none at their end.
    Data(&'a [u8]),
    /// Send a file of at most `limit` bytes.
    Get { limit: u64, path: &'a str },
}

/// A request has more bytes than a frame can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Request<'_> {
    /// Appends the request's frame.
    pub(crate) fn encode(&self, frames: &mut Vec<u8>) -> Result<(), TooLong> {
        let begin = frames.len();
        frames.extend([self.kind(), 0, 0, 0]);
        match self {
            Self::Renew { time, disk, hostname, seed } => {
                frames.extend(time.as_secs().to_le_bytes());
                frames.extend(time.subsec_nanos().to_le_bytes());
                frames.extend(disk.unwrap_or(0).to_le_bytes());
                frames.push(u8::try_from(hostname.len()).map_err(|_| TooLong)?);
                frames.extend(hostname.as_bytes());
                frames.extend(*seed);
            }
            Self::Prepare(start) => start.encode(frames)?,
            Self::Run { limit, start } => {
                frames.extend(limit.to_le_bytes());
                start.unwrap_or(&Start::default()).encode(frames)?;
            }
            Self::Feed(_, bytes) | Self::Data(bytes) => frames.extend(*bytes),
            Self::Cancel => {}
            Self::Put { mode, path } => {
                frames.extend(mode.to_le_bytes());
                frames.extend(path.as_bytes());
            }
            Self::Get { limit, path } => {
                frames.extend(limit.to_le_bytes());
                frames.extend(path.as_bytes());
            }
        }
        let length = frames.len() - begin - HEADER;
        if length > MAX_PAYLOAD {
            frames.truncate(begin);
            return Err(TooLong);
        }
        let length = u32::try_from(length).unwrap_or_default().to_le_bytes();
        frames[begin + 1..begin + HEADER].copy_from_slice(&length[..HEADER - 1]);
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Renew { .. } => 1,
            Self::Prepare(_) => 2,
            Self::Run { .. } => 3,
            Self::Feed(Feed::Code, _) => 4,
            Self::Feed(Feed::Input, _) => 5,
            Self::Cancel => 6,
            Self::Put { .. } => 7,
            Self::Data(_) => 8,
            Self::Get { .. } => 9,
        }
    }
}

impl Start {
    /// Counts of arguments and variables, and the strings, each with its end.
    fn encode(&self, frames: &mut Vec<u8>) -> Result<(), TooLong> {
        for list in [&self.arguments, &self.environment] {
            frames.extend(u16::try_from(list.len()).map_err(|_| TooLong)?.to_le_bytes());
        }
        for text in self.arguments.iter().chain(&self.environment) {
            frames.extend(text.as_bytes());
            frames.push(0);
        }
        Ok(())
    }
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The supervisor has begun, and speaks our protocol.
    Ready,
    Renewed,
    /// The interpreter that was prepared has started.
    Waiting,
    /// The program runs.
    Begun,
    Output(Stream, Vec<u8>),
    /// That output has reached its limit.
    Cut(Stream),
    /// So many bytes were passed on.
    Taken(Feed, u32),
    Exit(Exit),
    /// The file is written.
    Done,
    /// Bytes of a file, none at their end.
    Chunk(Vec<u8>),
    /// What was asked for can't be done, for this reason.
    Fail(String),
    /// Every process was killed; nothing of what was asked before is reported any more.
    Cancelled,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(u8),
    Signal(u8),
}

impl Report {
    fn parse(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        Ok(match (kind, payload) {
            (1, [a, b, c, d]) => match u32::from_le_bytes([*a, *b, *c, *d]) {
                VERSION => Self::Ready,
                other => return Err(FrameError::Version(other)),
            },
            (2, []) => Self::Renewed,
            (3, []) => Self::Waiting,
            (4, []) => Self::Begun,
            (5, [_, ..]) => Self::Output(Stream::Stdout, payload.to_vec()),
            (6, [_, ..]) => Self::Output(Stream::Stderr, payload.to_vec()),
            (7, [0]) => Self::Cut(Stream::Stdout),
            (7, [1]) => Self::Cut(Stream::Stderr),
            (8, [feed @ (0 | 1), a, b, c, d]) => {
                let feed = if *feed == 0 { Feed::Code } else { Feed::Input };
                Self::Taken(feed, u32::from_le_bytes([*a, *b, *c, *d]))
            }
            (9, [0, code]) => Self::Exit(Exit::Code(*code)),
            (9, [1, signal @ 1..=64]) => Self::Exit(Exit::Signal(*signal)),
            (10, []) => Self::Done,
            (11, bytes) => Self::Chunk(bytes.to_vec()),
            (12, reason) => Self::Fail(printable(reason)),
            (13, []) => Self::Cancelled,
            _ => return Err(FrameError::Malformed { kind, length: payload.len() }),
        })
    }
}

/// A guest's reason, without what a terminal would obey.
fn printable(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    let safe = |char: char| if char.is_control() { ' ' } else { char };
    text.trim().chars().take(MAX_REASON).map(safe).collect()
}

/// Makes reports of the bytes that came so far. It holds one frame and what was read with it.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: Vec<u8>,
    /// Those that were understood.
    used: usize,
}

impl Decoder {
    /// Takes bytes that came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend(bytes);
    }

    /// The next report, if all of it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Report>, FrameError> {
        let bytes = &self.bytes[self.used..];
        let Some(([kind, a, b, c], rest)) = bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let report = Report::parse(*kind, payload)?;
        self.used += HEADER + length;
        Ok(Some(report))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NO_START: &Start = &Start { arguments: Vec::new(), environment: Vec::new() };

    fn decoded(bytes: &[u8], at_once: usize) -> Result<Vec<Report>, FrameError> {
        let (mut decoder, mut reports) = (Decoder::default(), Vec::new());
        for part in bytes.chunks(at_once) {
            decoder.push(part);
            while let Some(report) = decoder.next()? {
                reports.push(report);
            }
        }
        Ok(reports)
    }

    #[rstest]
    fn frames_are_understood_however_they_are_cut(#[values(1, 3, 5, 1000)] at_once: usize) {
        let bytes = [
            &[1, 4, 0, 0, 2, 0, 0, 0][..],
            &[5, 2, 0, 0, b'h', b'i'],
            &[8, 5, 0, 0, 1, 0, 1, 0, 0],
            &[9, 2, 0, 0, 1, 15],
            &[12, 3, 0, 0, b'n', 0x1b, b'o'],
            &[5, 1, 0],
        ];
        let reports = decoded(&bytes.concat(), at_once).expect("frames");
        let expected = [
            Report::Ready,
            Report::Output(Stream::Stdout, b"hi".to_vec()),
            Report::Taken(Feed::Input, 256),
            Report::Exit(Exit::Signal(15)),
            Report::Fail("n o".to_owned()),
        ];
        assert_eq!(reports, expected);
    }

    #[rstest]
    #[case(&[2, 0, 0, 0], Report::Renewed)]
    #[case(&[3, 0, 0, 0], Report::Waiting)]
    #[case(&[4, 0, 0, 0], Report::Begun)]
    #[case(&[6, 1, 0, 0, b'x'], Report::Output(Stream::Stderr, b"x".to_vec()))]
    #[case(&[7, 1, 0, 0, 0], Report::Cut(Stream::Stdout))]
    #[case(&[7, 1, 0, 0, 1], Report::Cut(Stream::Stderr))]
    #[case(&[8, 5, 0, 0, 0, 1, 0, 0, 0], Report::Taken(Feed::Code, 1))]
    #[case(&[9, 2, 0, 0, 0, 3], Report::Exit(Exit::Code(3)))]
    #[case(&[10, 0, 0, 0], Report::Done)]
    #[case(&[11, 2, 0, 0, b'h', b'i'], Report::Chunk(b"hi".to_vec()))]
    #[case(&[11, 0, 0, 0], Report::Chunk(Vec::new()))]
    #[case(&[13, 0, 0, 0], Report::Cancelled)]
    fn each_kind_of_report_is_understood(#[case] bytes: &[u8], #[case] report: Report) {
        assert_eq!(decoded(bytes, 1000), Ok(vec![report]));
    }

    /// What a frame may have, it may have to the byte.
    #[rstest]
    fn the_longest_frame_is_understood() {
        let frame = [&[11, 0, 0, 1][..], &vec![7; MAX_PAYLOAD]].concat();
        let reports = decoded(&frame, 1 << 12).expect("a frame");
        assert_eq!(reports, [Report::Chunk(vec![7; MAX_PAYLOAD])]);
    }

    /// A frame of 256 bytes and more, and the one after it.
    #[rstest]
    fn a_length_has_three_bytes() {
        let frame = [&[11, 2, 1, 0][..], &[7; 258], &[10, 0, 0, 0]].concat();
        let reports = decoded(&frame, 100).expect("frames");
        assert_eq!(reports, [Report::Chunk(vec![7; 258]), Report::Done]);
    }

    /// It is shown on terminals.
    #[rstest]
    fn a_reason_is_short_and_printable() {
        let reason = "\u{1b}[31mno\n".repeat(MAX_REASON);
        let report = Report::parse(12, reason.as_bytes()).expect("a report");
        let Report::Fail(said) = report else { panic!("{report:?}") };
        assert_eq!(said.chars().count(), MAX_REASON);
        assert!(!said.contains(char::is_control), "{said:?}");
    }

    #[rstest]
    #[case::too_long(&[5, 1, 0, 1], FrameError::TooLong(65537))]
    #[case::much_too_long(&[0, 255, 255, 255], FrameError::TooLong((1 << 24) - 1))]
    #[case::unknown(&[14, 0, 0, 0], FrameError::Malformed { kind: 14, length: 0 })]
    #[case::empty_output(&[5, 0, 0, 0], FrameError::Malformed { kind: 5, length: 0 })]
    #[case::no_signal(&[9, 2, 0, 0, 1, 0], FrameError::Malformed { kind: 9, length: 2 })]
    #[case::third_stream(&[7, 1, 0, 0, 2], FrameError::Malformed { kind: 7, length: 1 })]
    #[case::older(&[1, 4, 0, 0, 1, 0, 0, 0], FrameError::Version(1))]
    #[case::newer(&[1, 4, 0, 0, 3, 0, 0, 0], FrameError::Version(3))]
    fn lies_are_named(#[case] bytes: &[u8], #[case] error: FrameError) {
        assert_eq!(decoded(bytes, 1000), Err(error));
    }

    #[rstest]
    fn requests_have_the_layout_of_the_supervisor() {
        let start = Start {
            arguments: vec!["sh".to_owned(), "-s".to_owned()],
            environment: vec!["A=b".to_owned()],
        };
        let mut frames = Vec::new();
        Request::Run { limit: 258, start: Some(&start) }.encode(&mut frames).expect("a frame");
        let head = [&[3, 22, 0, 0][..], &[2, 1, 0, 0, 0, 0, 0, 0], &[2, 0, 1, 0]].concat();
        assert_eq!(frames, [&head[..], b"sh\0-s\0A=b\0"].concat());
    }

    #[rstest]
    #[case(Request::Renew { time: Duration::new(1, 2), disk: None, hostname: "vm", seed: &[3, 4] },
        &[1, 25, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'v', b'm', 3, 4])]
    #[case(Request::Renew { time: Duration::new(1, 2), disk: Some(256), hostname: "", seed: &[] },
        &[1, 21, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])]
    #[case(Request::Prepare(NO_START), &[2, 4, 0, 0, 0, 0, 0, 0])]
    #[case(Request::Run { limit: 1, start: None },
        &[3, 12, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
    #[case(Request::Feed(Feed::Code, b"x"), &[4, 1, 0, 0, b'x'])]
    #[case(Request::Feed(Feed::Input, b""), &[5, 0, 0, 0])]
    #[case(Request::Cancel, &[6, 0, 0, 0])]
    #[case(Request::Put { mode: 0o600, path: "/a" }, &[7, 6, 0, 0, 128, 1, 0, 0, b'/', b'a'])]
    #[case(Request::Data(b"x"), &[8, 1, 0, 0, b'x'])]
    #[case(Request::Get { limit: 1, path: "/a" },
        &[9, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'/', b'a'])]
    fn each_kind_of_request_has_its_layout(#[case] request: Request<'_>, #[case] frame: &[u8]) {
        // After another one, which stays.
        let mut frames = vec![7];
        request.encode(&mut frames).expect("a frame");
        assert_eq!(frames, [&[7], frame].concat());
    }

    #[rstest]
    fn what_is_too_long_leaves_nothing() {
        let mut frames = vec![7];
        let long = vec![0; MAX_PAYLOAD + 1];
        assert_eq!(Request::Data(&long).encode(&mut frames), Err(TooLong));
        assert_eq!(frames, [7]);
        Request::Data(&long[1..]).encode(&mut frames).expect("a frame");
        assert_eq!(frames[..5], [7, 8, 0, 0, 1]);
    }
}
