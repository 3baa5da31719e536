//! Another user of the machine, as a client.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::http::Client;
use super::requirements::SOMEBODY;
use super::server::{self, Server};

/// A group that isn't in use.
pub(crate) const FRIENDS: u32 = 64321;

/// A server of one small base image for the friends too, and the directory of its socket, which it
/// makes for them; `more` adds to its command.
#[track_caller]
pub(crate) fn served_to_friends(
    scratch: &Path,
    more: impl FnOnce(&mut Command),
) -> (Server, PathBuf) {
    server::one_base(scratch);
    let run = scratch.join("run");
    let mut command = Server::command(scratch);
    command.args(server::one_base_args(scratch));
    command.args(["--socket-group", &FRIENDS.to_string()]);
    more(&mut command);
    let mut server = Server::launch_at(scratch, run.join("pool.sock"), &mut command);
    server.await_ready();
    (server, run)
}

/// Asks as another user with these groups, through an open directory, in which the socket is
/// `pool.sock`: only the socket's own mode is in the way. It takes root.
pub(crate) fn as_somebody<T: Send + 'static>(
    directory: &Path,
    groups: &'static [u32],
    ask: impl FnOnce(&mut Client) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    somebody(directory, groups, |socket| ask(&mut Client::connect(socket)?))
}

/// So many connections of that user's, who stays it whoever asks on them then.
pub(crate) fn connections_of_somebody(
    directory: &Path,
    groups: &'static [u32],
    count: usize,
) -> io::Result<Vec<Client>> {
    somebody(directory, groups, move |socket| (0..count).map(|_| Client::connect(socket)).collect())
}

fn somebody<T: Send + 'static>(
    directory: &Path,
    groups: &'static [u32],
    act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let open = File::open(directory)?;
    let socket = format!("/proc/self/fd/{}/pool.sock", open.as_raw_fd());
    let act = move || {
        let gid = Gid::from_raw(SOMEBODY);
        let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        let uid = Uid::from_raw(SOMEBODY);
        set_thread_res_uid(uid, uid, uid)?;
        act(Path::new(&socket))
    };
    std::thread::spawn(act).join().expect("a thread")
}
