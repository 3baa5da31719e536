//! What a client hears of a program, and of VMs, from a server that says whatever it likes.

use std::path::Path;

use overlay_pool::api::{Client, ClientError, Data, Event, ExecuteRequest, Running};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::harness::prelude::*;

const OK: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const OUT: &str = r#"{"event":"stdout","data":{"text":"hello"}}"#;
const END: &str = concat!(
    r#"{"event":"end","reason":"exit","exit_code":3,"stdout_truncated":false,"#,
    r#""stderr_truncated":false,"disk_failed":false,"seconds":0.5}"#
);

fn listen(scratch: &Path) -> (UnixListener, Client) {
    let socket = scratch.join("strange.sock");
    (UnixListener::bind(&socket).expect("a socket"), Client::new(socket))
}

fn program() -> ExecuteRequest {
    serde_json::from_str(r#"{"language":"python","code":"1"}"#).expect("a request")
}

/// Reads until all of a request has come that ends with `end`.
async fn take_until(stream: &mut UnixStream, end: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(end.as_bytes()) {
        let read = stream.read_buf(&mut request).await.expect("a request");
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
    }
    String::from_utf8(request).expect("text")
}

async fn send(stream: &mut UnixStream, part: &str) {
    let chunk = format!("{:x}\r\n{part}\r\n", part.len());
    stream.write_all(chunk.as_bytes()).await.expect("sent");
}

async fn next(running: &mut Running) -> Event {
    running.next().await.expect("an event").expect("not the last")
}

/// Whatever the pieces are in which they come.
#[apply(test)]
#[case::each(&[OUT, "\n", END, "\n"])]
#[case::at_once(&[OUT, "\n", OUT, "\n", END, "\n"])]
async fn events_come_one_by_one(scratch: Scratch, #[case] parts: &[&str]) {
    for at_once in [1, 7, 10_000] {
        let folder = scratch.join(at_once.to_string());
        std::fs::create_dir(&folder).expect("a folder");
        let (listener, client) = listen(&folder);
        let said = parts.concat();
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let request = take_until(&mut stream, "0\r\n\r\n").await;
            assert!(request.starts_with("POST /v1/execute HTTP/1.1\r\n"), "{request}");
            assert!(request.contains("content-type: application/json\r\n"), "{request}");
            assert!(request.contains(r#""code":"1""#), "{request}");
            stream.write_all(OK.as_bytes()).await.expect("sent");
            for part in said.as_bytes().chunks(at_once) {
                send(&mut stream, std::str::from_utf8(part).expect("text")).await;
            }
            // Nothing is read after the last.
            stream
        };
        let ask = async {
            let mut running = client.execute(&program()).await.expect("it runs");
            for _ in 0..parts.iter().filter(|part| **part == OUT).count() {
                let data = Data::Text("hello".to_owned());
                assert_eq!(next(&mut running).await, Event::Stdout { data });
            }
            let end = next(&mut running).await;
            assert!(matches!(end, Event::End { exit_code: 3, .. }), "{end:?}");
            assert_eq!(running.next().await.expect("no error"), None);
        };
        tokio::join!(serve, ask);
    }
}

/// It goes as a form, and nothing of it is taken before the server has agreed.
#[apply(test)]
async fn input_is_sent_once_the_program_runs(scratch: Scratch) {
    let (listener, client) = listen(&scratch);
    let (mut writer, input) = tokio::io::duplex(16);
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let head = take_until(&mut stream, "name=\"stdin\"\r\n\r\n\r\n").await;
        let boundary = head.split("boundary=").nth(1).and_then(|rest| rest.split("\r\n").next());
        let boundary = boundary.expect("a boundary").to_owned();
        let request =
            format!("--{boundary}\r\ncontent-disposition: form-data; name=\"request\"\r\n\r\n{{");
        assert!(
            head.contains("multipart/form-data; boundary=") && head.contains(&request),
            "{head}"
        );
        stream.write_all(OK.as_bytes()).await.expect("sent");
        let rest = take_until(&mut stream, "0\r\n\r\n").await;
        assert!(rest.contains("input of it"), "{rest}");
        assert!(rest.contains(&format!("\r\n--{boundary}--\r\n")), "{rest}");
        send(&mut stream, &format!("{END}\n")).await;
        stream
    };
    let ask = async {
        let mut running = client.execute_with(&program(), input).await.expect("it runs");
        let write = async move {
            writer.write_all(b"input of it").await.expect("it is taken");
            drop(writer);
        };
        let ((), end) = tokio::join!(write, next(&mut running));
        assert!(matches!(end, Event::End { .. }), "{end:?}");
    };
    tokio::join!(serve, ask);
}

#[apply(test)]
async fn a_program_that_is_refused_is_named(scratch: Scratch) {
    let (listener, client) = listen(&scratch);
    let problem = r#"{"type":"urn:overlay-pool:too-many-vms","title":"Many","status":503,
        "detail":"later","error":"too-many-vms"}"#;
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        take_until(&mut stream, "0\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .expect("sent");
        for part in [&problem[..30], &problem[30..]] {
            send(&mut stream, part).await;
        }
        stream.write_all(b"0\r\n\r\n").await.expect("sent");
    };
    let program = program();
    let (running, ()) = tokio::join!(client.execute(&program), serve);
    let error = running.expect_err("there is no room");
    assert_eq!(error.name(), Some("too-many-vms"), "{error:?}");
}

/// A refusal, or an event, that never ends is given up.
#[apply(test)]
#[case::refusal("HTTP/1.1 500 No", "status 500")]
#[case::event("HTTP/1.1 200 OK", "an event of over")]
async fn what_never_ends_is_given_up(scratch: Scratch, #[case] status: &str, #[case] said: &str) {
    let (listener, client) = listen(&scratch);
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        take_until(&mut stream, "0\r\n\r\n").await;
        let head = format!("{status}\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let part = [b"100001\r\n".to_vec(), vec![b' '; 0x10_0001], b"\r\n".to_vec()].concat();
        // Until the client has had enough.
        while stream.write_all(&part).await.is_ok() {}
    };
    let ask = async {
        let error = match client.execute(&program()).await {
            Err(error) => error,
            Ok(mut running) => running.next().await.expect_err("no event"),
        };
        assert!(error.to_string().contains(said), "{error}");
    };
    tokio::join!(serve, ask);
}

/// The server went away, or said less than all.
#[apply(test)]
#[case::end("0\r\n\r\n", "the program's end never came")]
#[case::gone("", "was lost")]
#[case::no_event("3\r\n{}\n\r\n", "an event:")]
async fn a_program_without_an_end_is_an_error(
    scratch: Scratch,
    #[case] last: &str,
    #[case] said: &str,
) {
    let (listener, client) = listen(&scratch);
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        take_until(&mut stream, "0\r\n\r\n").await;
        stream.write_all(OK.as_bytes()).await.expect("sent");
        send(&mut stream, &format!("{OUT}\n")).await;
        stream.write_all(last.as_bytes()).await.expect("sent");
    };
    let ask = async {
        let mut running = client.execute(&program()).await.expect("it runs");
        assert!(matches!(next(&mut running).await, Event::Stdout { .. }));
        let error = running.next().await.expect_err("no end");
        assert!(error.to_string().contains(said), "{error}");
    };
    tokio::join!(serve, ask);
}

/// A VM's name is one part of the path, whatever is in it.
#[apply(test)]
async fn vms_are_asked_for_by_their_names(scratch: Scratch) {
    let (listener, client) = listen(&scratch);
    let vm = r#"[{"id":"vm-1","language":"python","state":"ready","start":"booted","uid":1,"idle_seconds":1.5}]"#;
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let request = take_until(&mut stream, "\r\n\r\n").await;
        assert!(request.starts_with("GET /v1/vms HTTP/1.1\r\n"), "{request}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{vm}", vm.len());
        stream.write_all(answer.as_bytes()).await.expect("sent");
        let request = take_until(&mut stream, "\r\n\r\n").await;
        assert!(request.starts_with("DELETE /v1/vms/..%2Fdrain HTTP/1.1\r\n"), "{request}");
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("sent");
        take_until(&mut stream, "\r\n\r\n").await;
        let refused = b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refused).await.expect("sent");
    };
    let ask = async {
        let vms = client.vms().await.expect("an answer");
        assert_eq!(vms.iter().map(|vm| &*vm.id).collect::<Vec<_>>(), ["vm-1"]);
        client.destroy_vm("../drain").await.expect("destroyed");
        let error = client.destroy_vm("vm-1").await.expect_err("there is none");
        assert!(
            matches!(error, ClientError::Refused(_) | ClientError::Protocol { .. }),
            "{error:?}"
        );
    };
    tokio::join!(serve, ask);
}
