//! `POST /v1/execute`: programs in VMs of a server.

use serde_json::{Value, json};

use crate::harness::prelude::*;
use crate::harness::server::{self, Server};
use crate::harness::vm_server::{self, Ran, begin, execute, figure, next, until_ready};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

fn python(code: &str) -> Value {
    json!({ "language": "python", "code": code })
}

#[apply(test)]
async fn a_program_in_a_vm_that_waited(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    let ran = execute(&server, &python("print('hello from pool')"));
    assert_eq!(ran.printed(), "hello from pool\n");
    let begun = &ran.events[0];
    assert_eq!((&begun["start"], &begun["disk"]), (&json!("warm"), &json!("pooled")), "{begun}");
    let asks = r#"overlay_pool_vm_asks_total{language="python",start="warm"}"#;
    assert_eq!(figure(&server, asks), Some(1));
    let ended = r#"overlay_pool_programs_total{language="python",end="exit"}"#;
    assert_eq!(figure(&server, ended), Some(1));
    let phase = |start, phase| {
        let labels = format!("{{start=\"{start}\",phase=\"{phase}\"}}");
        figure(&server, &format!("overlay_pool_vm_phase_duration_seconds_count{labels}"))
    };
    assert_eq!((phase("warm", "renew"), phase("warm", "execute")), (Some(1), Some(1)));
    // Another one waits again, and has nothing of the first.
    until_ready(&server, "python", 1);
    let other = execute(&server, &python("import os; print(os.listdir('/root'))"));
    assert_eq!(other.printed(), "[]\n");
    assert_ne!(other.events[0]["vm"], begun["vm"]);
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn arguments_input_and_environment(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let ran = execute(
        &server,
        &json!({
            "language": "python",
            "code": "import os, sys\nprint(sys.argv, os.environ['A'], input())\nsys.exit(3)",
            "name": "script.py", "arguments": ["one", "-c"], "environment": { "A": "b" },
            "stdin": "data\n",
        }),
    );
    assert_eq!(ran.text("stdout"), "['script.py', 'one', '-c'] b data\n");
    let end = ran.last();
    assert_eq!((&end["reason"], &end["exit_code"]), (&json!("exit"), &json!(3)), "{end}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Bytes that are no text come through, and input may still come while the program runs.
#[apply(test)]
async fn files_and_input_as_a_form(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--max-upload", "64k"]);
    let request = |code: &str| {
        json!({ "language": "python", "code": code, "files": ["/root/out", "/root/none"] })
            .to_string()
    };
    let code = "import sys
said = sys.stdin.buffer.read()
open('/root/out', 'wb').write(open('/root/in', 'rb').read() + said)
sys.stdout.buffer.write(b'\\xff')";
    let request = request(code);
    let parts: [(&str, &[u8]); 3] = [
        ("name=request", request.as_bytes()),
        ("name=file; filename=\"/root/in\"", b"\xfe in "),
        ("name=stdin", b"\xfd input"),
    ];
    let mut client = server.client();
    vm_server::send_form(&mut client, "/v1/execute", &parts).expect("it is sent");
    let ran = Ran::of(&client.answer().expect("an answer"));
    let of = |event: &str| {
        let found = ran.events.iter().filter(|each| each["event"] == event);
        found.cloned().collect::<Vec<_>>()
    };
    assert_eq!(of("stdout"), [json!({ "event": "stdout", "data": { "base64": "/w==" } })]);
    let files = of("file");
    // What both parts had, in base 64.
    assert_eq!(files[0]["data"]["base64"], "/iBpbiD9IGlucHV0", "{files:?}");
    assert!(files[1]["error"].as_str().is_some_and(|why| why.contains("/root/none")), "{files:?}");
    assert_eq!(ran.last()["exit_code"], 0);

    let long = vec![b'x'; 65 << 10];
    let parts: [(&str, &[u8]); 2] =
        [("name=request", request.as_bytes()), ("name=file; filename=\"/root/in\"", &long)];
    let mut client = server.client();
    vm_server::send_form(&mut client, "/v1/execute", &parts).expect("it is sent");
    assert_eq!(client.answer().expect("an answer").problem(413), "too-large");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// What is beside the parts' contents counts too: a head without an end, what comes before the first
/// part, and more parts than there may be.
#[apply(test)]
#[case::head("--x\r\nx: ", "y")]
#[case::before("", "y")]
#[case::parts("", "--x\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\n\r\n")]
fn a_form_is_bounded_all_together(#[case] first: &str, #[case] more: &str, scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--max-upload", "64k"]);
    let mut client = server.client();
    let request = python("").to_string();
    let request =
        format!("--x\r\ncontent-disposition: form-data; name=request\r\n\r\n{request}\r\n");
    let first = if more.starts_with('-') { request } else { first.to_owned() };
    let body = first + &more.repeat((4 << 20) / more.len());
    let head = format!(
        "POST /v1/execute HTTP/1.1\r\nhost: pool\r\ncontent-type: multipart/form-data; boundary=x\r\n\
         content-length: {}\r\n\r\n",
        body.len() + 1
    );
    // The rest is not taken.
    let _ = client.send(&[head.as_bytes(), body.as_bytes()].concat());
    assert_eq!(client.answer().expect("an answer").problem(413), "too-large");
    server.stop();
}

#[apply(test)]
async fn what_is_read_comes_while_it_runs(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let code = "import sys\nprint('begun', flush=True)\nfor line in sys.stdin: print(line.upper())";
    let request = python(code).to_string();
    let mut client = server.client();
    let chunk = |bytes: &str| format!("{:x}\r\n{bytes}\r\n", bytes.len());
    let head = "POST /v1/execute HTTP/1.1\r\nhost: pool\r\ntransfer-encoding: chunked\r\n\
                content-type: multipart/form-data; boundary=x\r\n\r\n";
    let part = |name: &str| format!("--x\r\ncontent-disposition: form-data; name={name}\r\n\r\n");
    client.send(head.as_bytes()).expect("it is sent");
    let first = format!("{}{request}\r\n{}", part("request"), part("stdin"));
    client.send(chunk(&first).as_bytes()).expect("it is sent");
    assert_eq!(client.head().expect("an answer").status, 200);
    assert_eq!(next(&mut client).expect("an event")["event"], "begun");
    assert_eq!(next(&mut client).expect("an event")["data"]["text"], "begun\n");
    // The form's parser keeps back what could be the boundary's beginning.
    client.send(chunk(&format!("some line\n{}", " ".repeat(100))).as_bytes()).expect("it is sent");
    // The line and the newline of `print`, in one piece or two.
    let mut text = String::new();
    while text.len() < "SOME LINE\n\n".len() {
        let event = next(&mut client).expect("an event");
        text.push_str(event["data"]["text"].as_str().unwrap_or_else(|| panic!("{event}")));
    }
    assert_eq!(text, "SOME LINE\n\n");
    client.send(chunk("\r\n--x--\r\n").as_bytes()).expect("it is sent");
    client.send(chunk("").as_bytes()).expect("it is sent");
    let mut last = Value::Null;
    while let Some(event) = next(&mut client) {
        last = event;
    }
    assert_eq!(last["exit_code"], 0, "{last}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn limits_are_kept_and_told(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let mut request = python("print('x' * 100, flush=True)\nimport time\ntime.sleep(1000)");
    request["limits"] = json!({ "seconds": 20, "output_bytes": 10 });
    let ran = execute(&server, &request);
    let end = ran.last();
    assert_eq!((&end["reason"], &end["exit_code"]), (&json!("timed-out"), &json!(124)), "{end}");
    assert_eq!(ran.text("stdout"), "x".repeat(10));
    assert_eq!((&end["stdout_truncated"], &end["stderr_truncated"]), (&json!(true), &json!(false)));
    let mut request = python("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)");
    request["limits"] = json!({});
    let end = execute(&server, &request).last().clone();
    assert_eq!((&end["reason"], &end["signal"]), (&json!("signal"), &json!(15)), "{end}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Output comes as it is written, and nothing of a program is left when its client has gone.
#[apply(test)]
async fn a_client_that_goes_away_ends_its_program(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let code = "print('begun', flush=True)\nimport time\ntime.sleep(1000)";
    let (client, events) = begin(&server, "/v1/execute", &python(code));
    assert_eq!(events.last().expect("an event")["data"]["text"], "begun\n");
    assert_eq!(figure(&server, "overlay_pool_vms_used"), Some(1));
    drop(client);
    let ended = r#"overlay_pool_programs_total{language="python",end="given-up"}"#;
    eventually("it is given up", || figure(&server, ended) == Some(1)).await;
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    assert_eq!(figure(&server, "overlay_pool_vms_used"), Some(0));
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// One that reads nothing keeps no program running past its time.
#[apply(test)]
async fn a_client_that_reads_nothing_does_not_stop_the_clock(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--client-timeout", "1h"]);
    let mut request = python("while True: print('x' * 10000)");
    request["limits"] = json!({ "seconds": 20, "output_bytes": 1_u64 << 40 });
    let (_client, _) = begin(&server, "/v1/execute", &request);
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn what_can_not_be_understood_is_refused(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let problem = |status, request: Value| server.post("/v1/execute", &request).problem(status);
    assert_eq!(problem(404, json!({ "language": "raw", "code": "" })), "no-image");
    for request in [
        json!({ "language": "cobol", "code": "" }),
        json!({ "language": "python" }),
        json!({ "language": "python", "code": "", "colour": "red" }),
        json!({ "language": "python", "code": "", "arguments": ["a\0b"] }),
        json!({ "language": "python", "code": "", "environment": { "A=B": "" } }),
        json!({ "language": "python", "code": "", "files": vec!["/root/file"; 1025] }),
        json!({ "language": "python", "code": "", "limits": { "seconds": 0 } }),
        json!({ "language": "python", "code": "", "limits": { "seconds": 1e9 } }),
    ] {
        assert_eq!(problem(422, request), "bad-request");
    }
    let form = |parts: &[(&str, &[u8])]| {
        let mut client = server.client();
        vm_server::send_form(&mut client, "/v1/execute", parts).expect("it is sent");
        client.answer().expect("an answer")
    };
    let request = br#"{"language":"python","code":"","stdin":""}"#.as_slice();
    assert_eq!(form(&[]).problem(400), "bad-request");
    assert_eq!(form(&[("name=stdin", b"")]).problem(400), "bad-request");
    assert_eq!(form(&[("name=request", b"{")]).problem(400), "bad-request");
    assert_eq!(form(&[("name=request", request), ("name=file", b"")]).problem(400), "bad-request");
    assert_eq!(form(&[("name=request", request), ("name=stdin", b"")]).problem(400), "bad-request");
    let file = ("name=file; filename=\"/no/such/folder/file\"", b"".as_slice());
    assert_eq!(form(&[("name=request", request), file]).problem(422), "guest-refused");
    let plain = "POST /v1/execute HTTP/1.1\r\nhost: pool\r\ncontent-length: 0\r\n\r\n";
    let mut client = server.client();
    client.send(plain.as_bytes()).expect("it is sent");
    assert_eq!(client.answer().expect("an answer").problem(415), "bad-request");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// A client's disk isn't what other clients' VMs are resumed from.
#[apply(test)]
fn no_disk_among_the_states(scratch: Scratch) {
    server::one_base(&scratch);
    let mut args = server::one_base_args(&scratch);
    args.truncate(args.len() - 2); // targets may lie in the pool's place
    let mut command = vm_server::command(&scratch, 1);
    command.env_remove("OVERLAY_POOL_STATES").args(args);
    let mut server = Server::launch(&scratch, &mut command);
    server.await_ready();
    let states = scratch.join("pool/states");
    std::fs::create_dir_all(&states).expect("a folder");
    let refused = server.acquire(&server::base(&scratch), &states.join("x"));
    assert_eq!(refused.problem(422), "bad-target", "{refused:?}");
    assert!(!states.join("x").exists());
    server.stop();
}
