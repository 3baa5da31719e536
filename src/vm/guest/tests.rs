//! A guest that lies: what it says ends in a value or an error, in bounded time and room.

use std::time::Duration;

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, empty, repeat};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Guest, GuestError, Ran, Run, Start};
use crate::vm::execution::End;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_le_bytes();
    [&[kind], &length[..3], payload].concat()
}

const READY: [u8; 4] = [2, 0, 0, 0];
const RENEWED: u8 = 2;
const WAITING: u8 = 3;
const BEGUN: u8 = 4;
const OUTPUT: u8 = 5;
const CUT: u8 = 7;
const DONE: u8 = 10;
const CHUNK: u8 = 11;
const FAIL: u8 = 12;
const TAKEN: u8 = 8;
const EXIT: u8 = 9;
const CANCELLED: u8 = 13;
const CANCEL: u8 = 6;
const RUN: u8 = 3;

/// The next frame that the host sent; none if it is gone.
async fn request(stream: &mut UnixStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.ok()?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], 0]);
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    stream.read_exact(&mut payload).await.ok()?;
    Some((header[0], payload))
}

/// A guest that says `said` when a program is run, and hears what comes after that.
fn guest(said: Vec<u8>) -> Guest {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    tokio::spawn(async move {
        let (mut reader, mut writer) = theirs.split();
        let _ = writer.write_all(&said).await;
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    });
    Guest::new(ours)
}

/// Runs a program that may write 1,000 bytes, and throws them away.
async fn run(guest: &mut Guest, patience: Duration) -> Result<Ran, GuestError> {
    let deadline = Instant::now() + patience;
    let run = Run { start: None, code: b"code", file: None, limit: 1000, deadline };
    let (sender, mut parts) = mpsc::channel(1);
    let (ran, ()) = tokio::join!(guest.run(run, empty(), sender), async {
        while parts.recv().await.is_some() {}
    });
    ran
}

#[rstest]
#[case::output_over_the_limit(frame(OUTPUT, &[b'x'; 1001]), "more output than it may send")]
#[case::output_in_parts(frame(OUTPUT, &[b'x'; 400]).repeat(3), "more output than it may send")]
#[case::taken_unsent(frame(TAKEN, &[1, 1, 0, 0, 0]), "more taken than was sent")]
#[case::taken_wrapping(frame(TAKEN, &[0, 255, 255, 255, 255]), "more taken than was sent")]
#[case::a_file(frame(11, b"x"), "a report that doesn't belong to a program")]
#[case::a_long_frame(vec![OUTPUT, 255, 255, 255], "a frame of 16777215 bytes")]
#[case::no_frame(b"{\"return\": {}}\n".to_vec(), "a frame of")]
#[case::nothing_without_end(frame(WAITING, &[]).repeat(1000), "reports that mean nothing")]
#[case::no_byte_taken(frame(TAKEN, &[1, 0, 0, 0, 0]).repeat(1000), "reports that mean nothing")]
#[case::cancelled_unasked(frame(CANCELLED, &[]), "a report that doesn't belong to a program")]
#[tokio::test]
async fn lies_end_the_call(#[case] said: Vec<u8>, #[case] why: &str) {
    let error = run(&mut guest(said), Duration::from_secs(60)).await.expect_err("a lie");
    assert!(error.to_string().contains(why), "{error}");
}

/// It answers, again and again, and never to the point.
#[rstest]
#[tokio::test(start_paused = true)]
async fn a_guest_that_always_answers_is_given_up_at_the_deadline() {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let (mut reader, mut writer) = theirs.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
    tokio::spawn(async move {
        while writer.write_all(&frame(3, &[])).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let begin = Instant::now();
    let error = run(&mut Guest::new(ours), Duration::from_secs(2)).await.expect_err("no end");
    assert!(matches!(error, GuestError::Silent(_)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(13), "{:?}", begin.elapsed());
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn every_call_ends_by_its_deadline() {
    let deadline = || Instant::now() + Duration::from_secs(2);
    let silent = |result| matches!(result, Err(GuestError::Silent(_)));
    let mut mute = guest(Vec::new());
    assert!(silent(mute.begun(deadline()).await));
    mute.renew("name", None).expect("asked");
    assert!(silent(mute.renewed(deadline()).await));
    let mut mute = guest(Vec::new());
    assert!(silent(mute.prepared(deadline()).await));
    assert!(silent(mute.put("/file", 0o644, b"bytes", deadline()).await));
    let mut mute = guest(Vec::new());
    assert!(silent(mute.get("/file", 10, deadline()).await.map(drop)));
}

#[rstest]
#[tokio::test]
async fn a_file_of_more_than_was_asked_for_is_a_lie() {
    let mut guest = guest(frame(11, &[0; 600]).repeat(2));
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = guest.get("/file", 1000, deadline).await.expect_err("too much");
    assert!(error.to_string().contains("more than was asked for"), "{error}");
}

/// What the program doesn't read isn't sent: the window holds, and nothing else waits for it.
#[rstest]
#[tokio::test(start_paused = true)]
async fn no_more_is_sent_than_the_guest_has_room_for() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let guest = tokio::spawn(async move {
        let (mut code, mut input) = (0, 0);
        // The program takes nothing, until it is killed.
        while let Some((kind, payload)) = request(&mut theirs).await {
            match kind {
                4 => code += payload.len(),
                5 => input += payload.len(),
                CANCEL => {
                    let end = [frame(EXIT, &[1, 9]), frame(CANCELLED, &[])].concat();
                    theirs.write_all(&end).await.expect("the host hears");
                }
                _ => {}
            }
        }
        (code, input)
    });
    let mut host = Guest::new(ours);
    let deadline = Instant::now() + Duration::from_secs(5);
    let code = vec![b'#'; 1 << 20];
    let run = Run { start: None, code: &code, file: None, limit: 1000, deadline };
    let (sender, _parts) = mpsc::channel(1);
    let ran = host.run(run, repeat(b'x'), sender).await.expect("an end");
    assert_eq!(ran.end, End::TimedOut);
    drop(host);
    assert_eq!(guest.await.expect("no panic"), (1 << 16, 1 << 16));
}

/// It says that it took what it never read: what is kept for it meanwhile is bounded.
#[rstest]
#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_what_was_not_sent_is_given_up() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    tokio::spawn(async move {
        // Once all of the window is under way.
        while theirs.write_all(&frame(TAKEN, &[1, 0, 0, 1, 0])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let run = Run { start: None, code: b"", file: None, limit: 1000, deadline: soon() };
    let (sender, _parts) = mpsc::channel(1);
    let error = Guest::new(ours).run(run, repeat(b'x'), sender).await.expect_err("a lie");
    assert!(error.to_string().contains("taken before it was sent"), "{error}");
}

/// Nothing was sent, so nothing is cleared away before the next call.
#[rstest]
#[tokio::test]
async fn a_call_that_is_too_long_is_not_torn() {
    let mut guest = guest(Vec::new());
    let long = "x".repeat(1 << 16);
    let start = Start { arguments: vec![long.clone()], ..Start::default() };
    let run = Run { start: Some(&start), code: b"", file: None, limit: 0, deadline: soon() };
    let ran = guest.run(run, empty(), mpsc::channel(1).0).await.map(drop);
    expect(ran, Some("65536 bytes of the program's arguments and environment"));
    let path = Some("65536 bytes of the file's path");
    expect(guest.put(&long, 0o600, b"bytes", soon()).await, path);
    expect(guest.get(&long, 10, soon()).await.map(drop), path);
    assert!(!guest.torn);
}

/// A program whose caller went away is killed before the next one, and its answers aren't those
/// of the next.
#[rstest]
#[tokio::test]
async fn a_dropped_call_does_not_answer_the_next() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    tokio::spawn(async move {
        let mut runs = 0;
        while let Some((kind, _)) = request(&mut theirs).await {
            let answer = match kind {
                3 if runs == 0 => {
                    runs += 1;
                    frame(4, &[])
                }
                3 => [frame(4, &[]), frame(EXIT, &[0, 7])].concat(),
                CANCEL => {
                    [frame(OUTPUT, b"late"), frame(EXIT, &[1, 9]), frame(CANCELLED, &[])].concat()
                }
                _ => continue,
            };
            theirs.write_all(&answer).await.expect("the host hears");
        }
    });
    let mut host = Guest::new(ours);
    let dropped =
        tokio::time::timeout(Duration::from_millis(50), run(&mut host, Duration::from_secs(60)));
    dropped.await.expect_err("it does not end");
    let ran = run(&mut host, Duration::from_secs(60)).await.expect("an end");
    assert_eq!((ran.end, ran.cut), (End::Code(7), [false; 2]));
}

/// Nobody takes the output: the program is killed, the call ends, and nothing comes after a hole.
#[rstest]
#[case::gone(true, End::Signal(9))]
#[case::slow(false, End::TimedOut)]
#[tokio::test(start_paused = true)]
async fn output_that_nobody_takes_stops_no_end(#[case] gone: bool, #[case] end: End) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    tokio::spawn(async move {
        while let Some((kind, _)) = request(&mut theirs).await {
            let answer = match kind {
                3 => frame(OUTPUT, b"x").repeat(100),
                CANCEL => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    [frame(OUTPUT, b"y"), frame(EXIT, &[1, 9]), frame(CANCELLED, &[])].concat()
                }
                _ => continue,
            };
            theirs.write_all(&answer).await.expect("the host hears");
        }
    });
    let mut host = Guest::new(ours);
    let deadline = Instant::now() + Duration::from_secs(5);
    let run = Run { start: None, code: b"", file: None, limit: 1000, deadline };
    let (sender, mut parts) = mpsc::channel(1);
    if gone {
        parts.close();
    }
    let (ran, said) = tokio::join!(host.run(run, empty(), sender), async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        let mut said = Vec::new();
        while let Some((_, bytes)) = parts.recv().await {
            said.extend(bytes);
        }
        said
    });
    let ran = ran.expect("an end");
    assert_eq!((ran.end, ran.cut, said.len()), (end, [!gone, false], usize::from(!gone)));
}

/// Its program may have much time left, but nobody waits for it any more.
#[rstest]
#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_obey_is_given_up_soon() {
    let begin = Instant::now();
    let mut guest = guest(Vec::new());
    let deadline = begin + Duration::from_secs(86400);
    let run = Run { start: None, code: b"code", file: None, limit: 1000, deadline };
    let (sender, parts) = mpsc::channel(1);
    drop(parts);
    let error = guest.run(run, empty(), sender).await.expect_err("no end");
    assert!(matches!(error, GuestError::Silent(_)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(13), "{:?}", begin.elapsed());
}

/// Far more than anything here takes.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[rstest]
#[tokio::test]
async fn a_guest_has_begun_when_it_is_ready() {
    guest(frame(1, &READY)).begun(soon()).await.expect("it is ready");
    let error = guest(frame(BEGUN, &[])).begun(soon()).await.expect_err("another report");
    assert!(error.to_string().contains("before it is ready"), "{error}");
}

/// An interpreter may have begun to wait before the guest was renewed.
#[rstest]
#[case::at_once(vec![frame(RENEWED, &[])], None)]
#[case::after_another(vec![frame(WAITING, &[]), frame(RENEWED, &[])], None)]
#[case::refused(vec![frame(FAIL, b"no disk")], Some("no disk"))]
#[case::otherwise(vec![frame(BEGUN, &[])], Some("while it is renewed"))]
#[tokio::test]
async fn a_guest_says_whether_it_is_renewed(#[case] said: Vec<Vec<u8>>, #[case] why: Option<&str>) {
    let mut guest = guest(said.concat());
    guest.renew("name", None).expect("asked");
    expect(guest.renewed(soon()).await, why);
}

#[rstest]
#[case::waits(frame(WAITING, &[]), None)]
#[case::refused(frame(FAIL, b"no such program"), Some("no such program"))]
#[case::otherwise(frame(DONE, &[]), Some("while an interpreter starts"))]
#[tokio::test]
async fn a_guest_says_whether_an_interpreter_waits(
    #[case] said: Vec<u8>,
    #[case] why: Option<&str>,
) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut host = Guest::new(ours);
    host.prepare(&Start::default()).expect("asked");
    assert_eq!(request(&mut theirs).await.expect("a request").0, 2);
    theirs.write_all(&said).await.expect("the host hears");
    expect(host.prepared(soon()).await, why);
}

#[track_caller]
fn expect(result: Result<(), GuestError>, why: Option<&str>) {
    match (result, why) {
        (Ok(()), None) => {}
        (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{error}"),
        (result, why) => panic!("{result:?}, not {why:?}"),
    }
}

/// The answer to a second cancel would come into the next call, and not belong there.
#[rstest]
#[tokio::test]
async fn a_call_that_is_dropped_while_it_cancels_is_cancelled_once() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut guest = Guest::new(ours);
    let deadline = Instant::now() + Duration::from_secs(60);
    let unheard = Run { start: None, code: b"", file: None, limit: 1000, deadline };
    let (sender, _) = mpsc::channel(1);
    tokio::select! {
        ran = guest.run(unheard, empty(), sender) => panic!("{ran:?}"),
        () = async { while request(&mut theirs).await.expect("a frame").0 != CANCEL {} } => {}
    }
    let answers = async {
        theirs.write_all(&frame(CANCELLED, &[])).await.expect("an answer");
        let mut cancels = 0;
        while let Some((kind, _)) = request(&mut theirs).await {
            if kind == RUN {
                break;
            }
            cancels += usize::from(kind == CANCEL);
        }
        let ends = [frame(BEGUN, &[]), frame(EXIT, &[0, 0])].concat();
        theirs.write_all(&ends).await.expect("an answer");
        cancels
    };
    let (ran, cancels) = tokio::join!(run(&mut guest, Duration::from_secs(60)), answers);
    assert_eq!(ran.expect("it runs").end, End::Code(0));
    assert_eq!(cancels, 0);
}

/// A file that is refused is no torn call: the next one is asked at once.
#[rstest]
#[case::written(vec![frame(WAITING, &[]), frame(DONE, &[])], None)]
#[case::refused(vec![frame(FAIL, b"no room")], Some("no room"))]
#[case::otherwise(vec![frame(BEGUN, &[])], Some("while a file is written"))]
#[tokio::test]
async fn a_guest_says_whether_it_wrote_a_file(
    #[case] said: Vec<Vec<u8>>,
    #[case] why: Option<&str>,
) {
    let mut guest = guest(said.concat());
    expect(guest.put("/file", 0o600, b"bytes", soon()).await, why);
    assert_eq!(guest.torn, why.is_some_and(|why| why.starts_with("while")));
}

#[rstest]
#[case::sent(vec![frame(WAITING, &[]), frame(CHUNK, b"he"), frame(CHUNK, b"y"), frame(CHUNK, b"")], None)]
#[case::refused(vec![frame(FAIL, b"no such file")], Some("no such file"))]
#[case::otherwise(vec![frame(DONE, &[])], Some("while a file is read"))]
#[tokio::test]
async fn a_guest_sends_a_file(#[case] said: Vec<Vec<u8>>, #[case] why: Option<&str>) {
    let mut guest = guest(said.concat());
    let got = guest.get("/file", 3, soon()).await;
    expect(got.map(|bytes| assert_eq!(bytes, b"hey")), why);
    assert_eq!(guest.torn, why.is_some_and(|why| why.starts_with("while")));
}

/// Each output has its own limit, and is told apart.
#[rstest]
#[case::first(0, [true, false])]
#[case::second(1, [false, true])]
#[tokio::test]
async fn an_output_that_is_cut_is_told(#[case] which: u8, #[case] cut: [bool; 2]) {
    let said = [
        frame(WAITING, &[]),
        frame(BEGUN, &[]),
        frame(OUTPUT, &[b'o'; 1000]),
        frame(OUTPUT + 1, &[b'e'; 1000]),
        frame(CUT, &[which]),
        frame(EXIT, &[0, 3]),
    ];
    let ran = run(&mut guest(said.concat()), Duration::from_secs(60)).await.expect("an end");
    assert_eq!(ran, Ran { end: End::Code(3), cut });
}

/// All that was sent may be taken.
#[rstest]
#[tokio::test]
async fn a_program_may_take_all_of_its_code() {
    let said = [frame(TAKEN, &[0, 4, 0, 0, 0]), frame(EXIT, &[0, 0])];
    let ran = run(&mut guest(said.concat()), Duration::from_secs(60)).await.expect("an end");
    assert_eq!(ran.end, End::Code(0));
}

/// The answer of a renewal comes before all that a program does, once, and only if it was asked for.
#[rstest]
#[case::in_order(true, vec![frame(RENEWED, &[]), frame(EXIT, &[0, 0])], None)]
#[case::not_yet(true, vec![frame(BEGUN, &[])], Some("before it is renewed"))]
#[case::refused(true, vec![frame(FAIL, b"no clock")], Some("no clock"))]
#[case::unasked(false, vec![frame(RENEWED, &[])], Some("doesn't belong to a program"))]
#[case::twice(true, vec![frame(RENEWED, &[]); 2], Some("doesn't belong to a program"))]
#[tokio::test]
async fn a_program_runs_in_a_renewed_guest_alone(
    #[case] renew: bool,
    #[case] said: Vec<Vec<u8>>,
    #[case] why: Option<&str>,
) {
    let mut guest = guest(said.concat());
    if renew {
        guest.renew("name", None).expect("asked");
    }
    expect(run(&mut guest, Duration::from_secs(60)).await.map(drop), why);
}
