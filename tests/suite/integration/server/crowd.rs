//! One client takes all it can get.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::start;
use crate::harness::prelude::*;
use crate::harness::python;
use crate::harness::server;

/// A process that isn't this one, killed when it is dropped.
struct Hostile(Child);

impl Hostile {
    /// Takes thousands of connections, each with half a request, and new ones for those it loses: more
    /// than may wait to be accepted, since a slow server would find those ended.
    fn start(socket: &Path) -> Self {
        let script = "
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held, told = [], False
while True:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.connect(sys.argv[1])
        one.sendall(b'POST /v1/acquire HTTP/1.1\\r\\ncontent-length: 9\\r\\n')
    except OSError:
        pass
    held.append(one)
    if len(held) > 6000:
        held.pop(0).close()
        if not told:
            print('told', flush=True)
            told = True
";
        let mut child = Command::new(python::program("python3"))
            .args(["-c", script])
            .arg(socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("it says that it has them");
        assert_eq!(line, "told\n");
        Self(child)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[apply(test)]
#[needs(Python)]
fn others_are_served(scratch: Scratch) {
    let mut server = start(&scratch, &[]);
    let hostile = Hostile::start(server.socket());
    server.await_that("it has all it can get", |server| server.log().contains("turned away"));
    for number in 0..15 {
        let target = server::vms(&scratch).join(format!("vm-{number}.qcow2"));
        let answer = server.acquire(&server::base(&scratch), &target);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    drop(hostile);
    server.await_ready_overlays(2);
    server.stop();
}
