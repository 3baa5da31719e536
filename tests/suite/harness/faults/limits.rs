//! Resources that run out.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// A process that can open no further file (EMFILE), until this is dropped.
pub(crate) struct NoMoreFiles {
    pid: Pid,
    before: Rlimit,
}

impl NoMoreFiles {
    /// Every descriptor that the process doesn't have yet is over the limit.
    pub(crate) fn of(pid: Pid) -> Self {
        // The process has our hard limit, which only root could raise again.
        let none = Rlimit { current: Some(0), ..getrlimit(Resource::Nofile) };
        let before = prlimit(Some(pid), Resource::Nofile, none).expect("the new limit");
        Self { pid, before }
    }
}

impl Drop for NoMoreFiles {
    fn drop(&mut self) {
        // The process may have ended.
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before.clone());
    }
}
