//! The system calls that only `unsafe` code can make; all of the crate's stands here.

#![expect(unsafe_code, reason = "nothing else can ask for these")]

use std::io;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Has the kernel kill the child when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure makes two system calls and neither allocates nor takes a lock, so it
    // may run in the child between fork and exec.
    unsafe { command.pre_exec(move || ask_for_death(parent)) };
}

fn ask_for_death(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}
