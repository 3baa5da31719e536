//! The QMP client, in front of a server that says any bytes.
//!
//! The client greets, sends some commands and waits for a job; then the server says the input
//! and closes the stream. Each of the client's futures must end, and with nothing but what a
//! line of the input says.

#![no_main]

// The client is no part of the library's interface, and fuzzing shall not make it one.
#[expect(dead_code, reason = "errors of jobs are made by who waits for jobs")]
#[path = "../../../src/qmp.rs"]
mod qmp;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use qmp::{Qmp, QmpError};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Ids 2 to 4: the first is that of `qmp_capabilities`.
const COMMANDS: [u64; 3] = [2, 3, 4];
const JOB: &str = "create-0";
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

fuzz_target!(|input: &[u8]| {
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            let (heard, ()) = tokio::join!(ask(ours), say(theirs, input));
            check(input, heard);
        });
    });
});

/// What came of the commands, and of the job.
type Heard = ([Result<Value, QmpError>; 3], Result<(), QmpError>);

async fn ask(stream: UnixStream) -> Heard {
    let qmp = Qmp::connect(stream).await.expect("the server greets well");
    let job = qmp.job_concluded(JOB);
    drop(qmp.job_concluded("forgotten"));
    qmp.forget_job("forgotten");
    let commands = COMMANDS.map(|_| qmp.execute("query-jobs", &json!({})));
    let all = async {
        let [first, second, third] = commands;
        (tokio::join!(first, second, third), job.await)
    };
    let ((first, second, third), job) = timeout(PATIENCE, all).await.expect("a future never ends");
    ([first, second, third], job)
}

async fn say(stream: UnixStream, input: &[u8]) {
    let (reader, mut writer) = stream.into_split();
    let mut commands = BufReader::new(reader).lines();
    writer.write_all(b"{\"QMP\": {}}\n").await.expect("it is there");
    commands.next_line().await.expect("a line").expect("qmp_capabilities");
    writer.write_all(b"{\"return\": {}, \"id\": 1}\n").await.expect("it is there");
    for _ in COMMANDS {
        commands.next_line().await.expect("a line").expect("a command");
    }
    // A client that was told nonsense may have gone.
    let _ = writer.write_all(input).await;
    let _ = writer.shutdown().await;
}

/// Nothing is made up: each answer stands in a whole line.
fn check(input: &[u8], (commands, job): Heard) {
    let whole = input.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    // What the client passes over need not even be text.
    let lines: Vec<_> = whole.map(String::from_utf8_lossy).collect();
    for (id, heard) in COMMANDS.into_iter().zip(commands) {
        let says = |path: &[&str], what: &Value| {
            let mut answers = lines.iter().filter(|line| at(line, &["id"]) == Some(id.into()));
            answers.any(|line| at(line, path).as_ref() == Some(what))
        };
        match heard {
            Ok(value) => assert!(says(&["return"], &value), "{id}: {value}"),
            Err(QmpError::Refused { message, .. }) => {
                assert!(says(&["error", "desc"], &message.clone().into()), "{id}: {message}");
            }
            Err(error) => assert!(matches!(error, QmpError::Closed(_)), "{id}: {error}"),
        }
    }
    let concluded = |line: &str| {
        at(line, &["event"]) == Some("JOB_STATUS_CHANGE".into())
            && at(line, &["data", "id"]) == Some(JOB.into())
            && at(line, &["data", "status"]) == Some("concluded".into())
    };
    match job {
        Ok(()) => assert!(lines.iter().any(|line| concluded(line)), "the job never ended"),
        Err(error) => assert!(matches!(error, QmpError::Closed(_)), "{error}"),
    }
}

/// The value at the end of a path of names, whatever stands beside it.
fn at(text: &str, path: &[&str]) -> Option<Value> {
    let Some((name, rest)) = path.split_first() else { return serde_json::from_str(text).ok() };
    let fields: HashMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    at(fields.get(*name)?.get(), rest)
}
