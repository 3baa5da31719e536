//! The parser of what a guest's supervisor says, fed with any bytes, cut anywhere.
//!
//! The first byte of the input says into how large parts the rest is cut. However it is cut, the
//! reports are the same, none holds more than a frame may carry, and what was understood is what
//! the bytes say.

#![no_main]

// The parser is no part of the library's interface, and fuzzing shall not make it one.
#[expect(dead_code, reason = "only what comes from the guest is looked at")]
#[path = "../../../src/vm/guest/frame.rs"]
mod frame;

use frame::{Decoder, Exit, FrameError, MAX_PAYLOAD, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, said)) = input.split_first() else { return };
    let whole = decode(said, said.len().max(1));
    assert_eq!(whole, decode(said, usize::from(*cut) + 1), "cut into other parts");
    check(said, whole);
});

/// The reports, and what ended them.
type Heard = (Vec<Report>, Result<(), FrameError>);

fn decode(said: &[u8], at_once: usize) -> Heard {
    let (mut decoder, mut reports) = (Decoder::default(), Vec::new());
    for part in said.chunks(at_once) {
        decoder.push(part);
        loop {
            match decoder.next() {
                Ok(Some(report)) => reports.push(report),
                Ok(None) => break,
                Err(error) => return (reports, Err(error)),
            }
        }
    }
    (reports, Ok(()))
}

/// Follows the frames by themselves: each that is whole was understood or is the error.
fn check(said: &[u8], (reports, end): Heard) {
    let mut rest = said;
    for report in &reports {
        let [kind, a, b, c, ..] = *rest else { panic!("a report without a frame") };
        let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        assert!(length <= MAX_PAYLOAD, "{length} bytes were taken");
        let payload = &rest[4..4 + length];
        rest = &rest[4 + length..];
        match report {
            Report::Output(_, bytes) => assert!(bytes == payload && matches!(kind, 5 | 6)),
            Report::Chunk(bytes) => assert!(bytes == payload && kind == 11),
            Report::Fail(reason) => {
                assert!(kind == 12 && !reason.chars().any(char::is_control), "{reason:?}");
            }
            Report::Exit(Exit::Code(code)) => assert_eq!((kind, payload), (9, &[0, *code][..])),
            Report::Exit(Exit::Signal(signal)) => {
                assert_eq!((kind, payload), (9, &[1, *signal][..]));
                assert!((1..=64).contains(signal));
            }
            _ => assert!(payload.len() <= 5),
        }
    }
    let whole = rest.first_chunk::<4>().is_some_and(|[_, a, b, c]| {
        rest.len() - 4 >= usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16
    });
    match end {
        Ok(()) => assert!(!whole, "a whole frame was left"),
        Err(FrameError::TooLong(length)) => assert!(length > MAX_PAYLOAD),
        Err(_) => assert!(whole, "half a frame was judged"),
    }
}
