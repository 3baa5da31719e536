//! `overlay-pool serve` in a process of its own, spoken to over its socket.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::cli;
use super::http::{Client, Response};
use super::qcow2::Image;

/// Far more than anything here takes; reached only when what is waited for never happens.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server's process. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts a server with these arguments and waits until it is ready. Its socket is
    /// `pool.sock` in the test's folder, its pool directory `pool`, its log `server.log`.
    #[track_caller]
    pub(crate) fn start(scratch: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut server = Self::launch(scratch, Self::command(scratch).args(args));
        server.await_ready();
        server
    }

    /// Starts a server of one small base image, [`base`], with two overlays ready; targets may
    /// lie in [`vms`], on the filesystem of the pool directory. It restocks at once.
    #[track_caller]
    pub(crate) fn of_one_base(scratch: &Path) -> Self {
        one_base(scratch);
        Self::start(scratch, one_base_args(scratch))
    }

    /// `overlay-pool serve` with its pool directory in the test's folder, to be given more arguments
    /// and [launched](Self::launch), which says where its socket and its log are.
    pub(crate) fn command(scratch: &Path) -> Command {
        let mut command = cli::overlay_pool(scratch);
        command.arg("serve");
        command
    }

    /// Runs a command that becomes a server, and doesn't wait for it.
    #[track_caller]
    pub(crate) fn launch(scratch: &Path, command: &mut Command) -> Self {
        Self::launch_at(scratch, socket(scratch), command)
    }

    /// Runs a command that becomes a server with this socket.
    #[track_caller]
    pub(crate) fn launch_at(scratch: &Path, socket: PathBuf, command: &mut Command) -> Self {
        let log = scratch.join("server.log");
        let errors = File::options().create(true).append(true).open(&log).expect("a log");
        if !command.get_envs().any(|(name, _)| name == "OVERLAY_POOL_LOG") {
            command.env("OVERLAY_POOL_LOG", "overlay_pool=debug");
        }
        command.stderr(errors);
        command.env("OVERLAY_POOL_SOCKET", &socket);
        let child = command.spawn().expect("the server runs");
        Self { child, socket, log }
    }

    /// Waits until it says that it is ready.
    #[track_caller]
    pub(crate) fn await_ready(&mut self) {
        self.await_that("it is ready", |server| {
            let answer = Client::connect(&server.socket).and_then(|mut one| one.get("/readyz"));
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Waits until `condition` holds; panics, with the log, where the server ends before.
    #[track_caller]
    pub(crate) fn await_that(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if let Some(status) = self.child.try_wait().expect("its status") {
                panic!("before {what}: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "never happened: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its status").is_none()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it said on standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a signal is sent");
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it never ended\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with SIGTERM, which is no failure.
    #[track_caller]
    pub(crate) fn stop(self) {
        self.signal(Signal::TERM);
        let log = self.log.clone();
        let status = self.wait();
        let log = std::fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "{status}\n{log}");
    }

    /// Another connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Asks on a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.client().get(path).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Asks on a connection of its own.
    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.client().post(path, body).unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    #[track_caller]
    pub(crate) fn acquire(&self, base: &Path, target: &Path) -> Response {
        self.post("/v1/acquire", &json!({ "base": base, "target": target }))
    }

    /// How many overlays are ready, over all base images.
    #[track_caller]
    pub(crate) fn ready(&self) -> u64 {
        let stats = self.get("/v1/stats").json();
        let ready = stats["ready"].as_object().expect("what is ready");
        ready.values().filter_map(Value::as_u64).sum()
    }

    #[track_caller]
    pub(crate) fn await_ready_overlays(&mut self, count: u64) {
        self.await_that(&format!("{count} overlays are ready"), |server| server.ready() == count);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn socket(scratch: &Path) -> PathBuf {
    scratch.join("pool.sock")
}

/// The base image of [`Server::of_one_base`].
pub(crate) fn base(scratch: &Path) -> PathBuf {
    scratch.join("base.qcow2")
}

/// Where the targets of [`Server::of_one_base`] may lie.
pub(crate) fn vms(scratch: &Path) -> PathBuf {
    scratch.join("vms")
}

/// Makes what [`Server::of_one_base`] serves.
pub(crate) fn one_base(scratch: &Path) {
    Image::new(1 << 20).write(&base(scratch));
    std::fs::create_dir_all(vms(scratch)).expect("a folder");
}

/// The arguments of [`Server::of_one_base`].
pub(crate) fn one_base_args(scratch: &Path) -> Vec<String> {
    let text = |path: PathBuf| path.to_str().expect("a plain path").to_owned();
    let [base, vms] = [base(scratch), vms(scratch)].map(text);
    ["--max-vms", "4", "--base", &base, "--targets", &vms].map(str::to_owned).to_vec()
}
