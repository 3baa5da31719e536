//! A pool in a process of its own, to outlive or to kill.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::BaseRef;

use super::case::block_on;
use super::pools;

const ROLE: &str = "OVERLAY_POOL_TEST_OWNER";

/// A process that owns a pool with two ready overlays. Dropped, it is killed.
pub(crate) struct Owner {
    child: Child,
    /// The pool directory it holds.
    pub(crate) directory: PathBuf,
}

impl Owner {
    /// Starts this test binary as an owner, whose pool directory lies in `scratch/pool`.
    pub(crate) fn start(scratch: &Path) -> Self {
        let program = std::env::current_exe().expect("the test binary");
        let mut child = Command::new(program)
            .env(ROLE, scratch)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an owner starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("the owner says where its pool is");
        Self { child, directory: line.trim_end().into() }
    }

    /// Kills it with SIGKILL; what it held stays behind.
    pub(crate) fn kill(self) -> PathBuf {
        self.directory.clone()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where this process was started as an owner, is one, until its input ends.
pub(crate) fn main_if_owner() -> Option<ExitCode> {
    let scratch = PathBuf::from(std::env::var_os(ROLE)?);
    let base = scratch.join("owner.img");
    std::fs::write(&base, [0; 512]).expect("a base image is written");
    block_on(async {
        let pool = pools::pool(pools::config(CreatorKind::Native, &scratch, 4));
        pool.start(Some(vec![BaseRef::raw(base)])).await.expect("the pool starts");
        println!("{}", pool.directory().expect("a pool directory").display());
        io::stdin().read_to_end(&mut Vec::new()).expect("input ends");
        pool.stop().await;
    });
    Some(ExitCode::SUCCESS)
}
