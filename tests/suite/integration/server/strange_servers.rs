//! What a client bears of a server that misbehaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::api::{Client, ClientError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::prelude::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn listen(scratch: &Path) -> (UnixListener, PathBuf) {
    let socket = scratch.join("strange.sock");
    (UnixListener::bind(&socket).expect("a socket"), socket)
}

/// Takes a client's request, which is short enough to come in one piece.
async fn take(listener: &UnixListener) -> (UnixStream, String) {
    let (mut stream, _) = listener.accept().await.expect("a client");
    let request = read(&mut stream).await;
    (stream, request)
}

async fn read(stream: &mut UnixStream) -> String {
    let mut bytes = vec![0; 4096];
    let count = stream.read(&mut bytes).await.expect("a request");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

/// What stands between the acquires of a scheduler and two disks for one VM.
#[apply(test)]
async fn what_the_server_may_have_seen_is_not_sent_again(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let serve = async {
        // The first answer leaves a connection that is kept, the second request meets its end.
        let (mut stream, _) = take(&listener).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.expect("sent");
        read(&mut stream).await
    };
    let ask = async {
        assert_eq!(client.bases().await.expect("an answer"), []);
        client.acquire("/base", "/target").await
    };
    let (again, lost) = tokio::join!(serve, ask);
    assert!(again.starts_with("POST /v1/acquire HTTP/1.1\r\n"), "{again}");
    assert!(matches!(lost, Err(ClientError::Connection { .. })), "{lost:?}");
    // Whoever came once more waits there already.
    let more = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(more.is_err(), "the acquire was sent again");
}

#[apply(test)]
async fn a_connection_that_was_closed_meanwhile_is_replaced(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let closed = Notify::new();
    let serve = async {
        for _ in 0..3 {
            let (mut stream, request) = take(&listener).await;
            assert!(request.starts_with("GET /v1/bases HTTP/1.1\r\n"), "{request}");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
                .await
                .expect("sent");
            drop(stream);
            closed.notify_one();
        }
    };
    let ask = async {
        for _ in 0..3 {
            assert_eq!(client.bases().await.expect("an answer"), []);
            closed.notified().await;
        }
    };
    tokio::join!(serve, ask);
}

/// The server sees its end, and so gives up what it does for it (rule A12).
#[apply(test)]
async fn a12_a_request_that_is_given_up_closes_its_connection(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let mut acquire = Box::pin(client.acquire("/base", "/target"));
    let mut stream = tokio::select! {
        answer = &mut acquire => panic!("nobody answered: {answer:?}"),
        (stream, _) = take(&listener) => stream,
    };
    drop(acquire);
    let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it ends");
    assert_eq!(end.expect("an end"), 0);
}

#[apply(test)]
async fn a12_a_server_that_hangs_is_given_up(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let after = Duration::from_millis(100);
    let client = Client::new(&socket).with_timeout(after);
    let (ask, (mut stream, _)) = tokio::join!(client.acquire("/base", "/target"), take(&listener));
    let error = ask.expect_err("nobody answered");
    assert!(matches!(&error, ClientError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer within 100ms"), "{error}");
    let end = timeout(PATIENCE, stream.read(&mut [0; 1])).await.expect("it ends");
    assert_eq!(end.expect("an end"), 0);
}

#[apply(test)]
#[case::not_http("SSH-2.0-OpenSSH_9.2\r\n", "was lost")]
#[case::not_json("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "another version")]
#[case::another_shape("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "another version")]
#[case::no_problem("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "status 500")]
#[case::cut_off("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"pooled\":", "was lost")]
#[case::too_long("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "bytes")]
async fn an_answer_of_something_else_is_an_error(
    scratch: Scratch,
    #[case] answer: &str,
    #[case] said: &str,
) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let serve = async {
        let (mut stream, _) = take(&listener).await;
        stream.write_all(answer.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("its end");
    };
    let (stats, ()) = tokio::join!(client.stats(), serve);
    let error = stats.expect_err("no figures").to_string();
    assert!(error.contains("strange.sock") && error.contains(said), "{error}");
}

/// A server that has no room for a client says so before it is asked.
#[apply(test)]
async fn a_client_that_is_turned_away_hears_why(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let problem = r#"{"type":"urn:overlay-pool:too-many-connections","title":"Too many",
        "status":503,"detail":"close some","error":"too-many-connections"}"#;
    let answer = format!("HTTP/1.1 503 No\r\ncontent-length: {}\r\n\r\n{problem}", problem.len());
    let serve = async {
        for _ in 0..50 {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(answer.as_bytes()).await.expect("sent");
            tokio::task::yield_now().await;
            stream.shutdown().await.expect("its end");
            while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
        }
    };
    let ask = async {
        for _ in 0..50 {
            let error = client.stats().await.expect_err("there is no room");
            assert_eq!(error.name(), Some("too-many-connections"), "{error:?}");
        }
    };
    tokio::join!(serve, ask);
}

/// The head and the body of an answer are read within bounds, whatever the server sends.
#[apply(test)]
#[case::body("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "100000\r\n", true)]
#[case::head("HTTP/1.1 200 OK\r\n", "", false)]
async fn an_endless_answer_comes_to_an_end(
    scratch: Scratch,
    #[case] head: &str,
    #[case] chunk: &str,
    #[case] is_body: bool,
) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let more = if is_body { vec![b' '; 0x10_0000] } else { b"a: b\r\n".to_vec() };
    let serve = async {
        let (mut stream, _) = take(&listener).await;
        stream.write_all(head.as_bytes()).await.expect("sent");
        // Until the client has had enough.
        while stream.write_all(chunk.as_bytes()).await.is_ok()
            && stream.write_all(&more).await.is_ok()
            && (!is_body || stream.write_all(b"\r\n").await.is_ok())
        {}
    };
    let ask = async {
        let answer = client.stats().await;
        drop(client);
        answer
    };
    let (stats, ()) = timeout(PATIENCE, async { tokio::join!(ask, serve) }).await.expect("an end");
    stats.expect_err("no figures");
}

#[apply(test)]
async fn an_open_file_that_did_not_come_is_an_error(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let body = r#"{"source":"pooled","base":"/base","took_us":1}"#;
    let serve = async {
        let (mut stream, _) = take(&listener).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.expect("sent");
    };
    let (opened, ()) = tokio::join!(client.open("/base", None), serve);
    let error = opened.expect_err("no file").to_string();
    assert!(error.contains("0 descriptors"), "{error}");
}

/// A refusal of another kind than the one that is an answer.
#[apply(test)]
async fn only_what_is_not_there_is_no_answer(scratch: Scratch) {
    let (listener, socket) = listen(&scratch);
    let client = Client::new(socket);
    let answer = |error: &str| {
        let problem = format!(
            r#"{{"type":"about:blank","title":"No","status":403,"detail":"no","error":"{error}"}}"#
        );
        format!("HTTP/1.1 403 No\r\ncontent-length: {}\r\n\r\n{problem}", problem.len())
    };
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        for error in ["unknown-base", "not-ready", "unknown-disk"] {
            for error in [error, "forbidden"] {
                read(&mut stream).await;
                stream.write_all(answer(error).as_bytes()).await.expect("sent");
            }
        }
    };
    let ask = async {
        let one = "one".parse().expect("a label");
        assert_eq!(client.remove_base("/base").await.expect("an answer"), None);
        let error = client.remove_base("/base").await.expect_err("no answer");
        assert_eq!(error.name(), Some("forbidden"));
        assert_eq!(client.not_ready().await.expect("an answer").as_deref(), Some("no"));
        let error = client.not_ready().await.expect_err("no answer");
        assert_eq!(error.name(), Some("forbidden"));
        assert_eq!(client.disk(&one).await.expect("an answer"), None);
        let error = client.disk(&one).await.expect_err("no answer");
        assert_eq!(error.name(), Some("forbidden"));
    };
    tokio::join!(serve, ask);
}

/// Of all that were open at once so many stay, for the next requests.
#[apply(test)]
async fn a_client_keeps_so_many_connections(scratch: Scratch) {
    const KEPT: usize = 64;
    let (listener, socket) = listen(&scratch);
    let client = std::sync::Arc::new(Client::new(socket));
    let asking: Vec<_> = (0..KEPT + 6)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.bases().await.expect("an answer") })
        })
        .collect();
    let mut streams = Vec::new();
    for _ in 0..asking.len() {
        streams.push(take(&listener).await.0);
    }
    for stream in &mut streams {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await.expect("sent");
    }
    for asked in asking {
        asked.await.expect("no panic");
    }
    let mut open = 0;
    for stream in &mut streams {
        let ended = rustix::io::read(&*stream, &mut [0; 1]);
        open += usize::from(ended == Err(rustix::io::Errno::AGAIN));
    }
    assert_eq!(open, KEPT);
}
