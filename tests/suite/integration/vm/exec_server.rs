//! `overlay-pool exec` in the VMs of a server.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::cli::{self, run};
use crate::harness::prelude::*;
use crate::harness::server::Server;
use crate::harness::vm_server::{self, figure, until_ready};
use crate::harness::vms::assert_no_vm_left;

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// `exec`, where a server is found at its usual place.
fn exec(scratch: &Path, server: &Server) -> Command {
    let mut command = cli::overlay_pool(scratch);
    command.arg("exec").env("OVERLAY_POOL_SOCKET", server.socket());
    command
}

#[apply(test)]
async fn a_vm_that_waited_is_used(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &["--language", "python=1"]);
    until_ready(&server, "python", 1);
    let answer = run(exec(&scratch, &server).args(["python", "-c", "print('hello from pool')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello from pool\n"), "{answer}");
    assert_eq!(answer.stderr, "");
    until_ready(&server, "python", 1);
    let answer = run(exec(&scratch, &server).args(["-v", "python", "-c", "print('again')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "again\n"), "{answer}");
    assert!(answer.stderr.contains("a server's VM"), "{answer}");
    until_ready(&server, "python", 1);
    let answer = run(exec(&scratch, &server).args(["python", "--json", "-c", "print('again')"]));
    let facts: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!((&facts["start"], &facts["stdout"]), (&"warm".into(), &"again\n".into()), "{facts}");
    let asks = r#"overlay_pool_vm_asks_total{language="python",start="warm"}"#;
    assert_eq!(figure(&server, asks), Some(3));
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn arguments_input_and_limits(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let code = "import os, sys\nprint(sys.argv, os.environ['A'], input())\nsys.exit(3)";
    std::fs::write(scratch.join("code.py"), code).expect("a file");
    let mut command = exec(&scratch, &server);
    command.args(["--env", "A=b", "py", "code.py", "-x"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
    child.stdin.take().expect("its input").write_all(b"data\n").expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "['code.py', '-x'] b data\n");
    assert_eq!(output.status.code(), Some(3));

    let code = "print('x' * 100, flush=True)\nimport time\ntime.sleep(1000)";
    let mut command = exec(&scratch, &server);
    command.env("OVERLAY_POOL_MAX_OUTPUT", "10").args(["--timeout", "20", "python", "-c", code]);
    let answer = run(&mut command);
    assert_eq!((answer.code, &*answer.stdout), (Some(124), &*"x".repeat(10)), "{answer}");
    assert!(answer.stderr.contains("killed after 20 s"), "{answer}");
    assert!(answer.stderr.contains("cut after 10 bytes"), "{answer}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Who has a limit raised that a server's VM has met is told where.
#[apply(test)]
async fn a_disk_that_reaches_the_server_s_limit(scratch: Scratch) {
    let mut command = vm_server::command(&scratch, 2);
    let mut server = Server::launch(&scratch, command.env("OVERLAY_POOL_DISK", "32"));
    server.await_ready();
    let code = "import os
with open('/root/file', 'wb') as file:
  for _ in range(64): file.write(os.urandom(1 << 20))
  os.fsync(file.fileno())";
    let answer = run(exec(&scratch, &server).args(["python", "-c", code]));
    assert_eq!(answer.code, Some(1), "{answer}");
    assert!(answer.stderr.contains("the server's OVERLAY_POOL_DISK"), "{answer}");
    assert!(!answer.stderr.contains("--disk"), "{answer}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// Nothing of its program is left at the server.
#[apply(test)]
async fn an_interrupt_ends_it_with_what_came(scratch: Scratch) {
    let server = vm_server::start(&scratch, 2, &[]);
    let code = "print('begun', flush=True)\nimport time\ntime.sleep(1000)";
    let mut command = exec(&scratch, &server);
    command.args(["python", "-c", code]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "begun\n", "it comes as it is written");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a PID")).expect("a PID");
    kill_process(pid, Signal::INT).expect("it is interrupted");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    eventually("its QEMU is gone", || server.children().is_empty()).await;
    server.stop();
    assert_no_vm_left(&scratch).await;
}

/// What a server can't do is done here; unless that server was asked for.
#[apply(test)]
fn a_server_without_vms_is_told_and_passed_over(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let answer = run(exec(&scratch, &server).args(["-v", "raw", "-c", "true"]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("this server runs no VMs"), "{answer}");
    assert!(answer.stderr.contains("no base image of raw"), "{answer}");
    let own = ["-v", "--memory", "256", "raw", "-c", "true"];
    let answer = run(exec(&scratch, &server).args(own));
    assert!(answer.stderr.contains("since an option or the environment says"), "{answer}");
    let socket = server.socket().to_owned();
    let answer = run(exec(&scratch, &server).arg("--socket").arg(socket).args(["py", "-c", ""]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("this server runs no VMs"), "{answer}");
    server.stop();
    let gone = scratch.join("gone.sock");
    let mut command = cli::overlay_pool(&scratch);
    let answer = run(command.args(["exec", "--socket"]).arg(gone).args(["py", "-c", ""]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("no server at"), "{answer}");
    let mut command = cli::overlay_pool(&scratch);
    let answer = run(command.args(["exec", "--socket", "s", "--memory", "64", "py", "-c", ""]));
    assert_eq!(answer.code, Some(2), "{answer}");
}
