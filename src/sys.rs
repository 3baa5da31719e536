//! The system calls that only `unsafe` code can make; all of the crate's stands here.

#![expect(unsafe_code, reason = "nothing else can ask for these")]

use std::io;
#[cfg(feature = "vm")]
use std::os::fd::OwnedFd;
#[cfg(any(feature = "csi", feature = "server"))]
use std::os::fd::{AsFd, AsRawFd};
#[cfg(feature = "server")]
use std::os::unix::net::UnixStream;
#[cfg(feature = "server")]
use std::sync::Arc;
#[cfg(all(feature = "vm", target_arch = "x86_64"))]
use std::sync::atomic::AtomicU8;

#[cfg(all(feature = "vm", target_arch = "x86_64"))]
use kvm_bindings::kvm_userspace_memory_region;
#[cfg(all(feature = "vm", target_arch = "x86_64"))]
use kvm_ioctls::VmFd;
#[cfg(feature = "vm")]
use rustix::io::{FdFlags, fcntl_setfd};
#[cfg(feature = "vm")]
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
#[cfg(feature = "vm")]
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
#[cfg(feature = "server")]
use tokio::io::{Interest, unix::AsyncFd};
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

/// Has the child keep `descriptors` open, under the numbers they have here, and of others the
/// standard streams alone.
#[cfg(feature = "vm")]
pub(crate) fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let keep = move || -> io::Result<()> {
        close_others_on_exec();
        for descriptor in &descriptors {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes one system call for each descriptor and one for all others, and
    // neither allocates nor takes a lock, so it may run in the child between fork and exec.
    unsafe { command.pre_exec(keep) };
}

/// What this process was given by whoever started it may be open to its children.
#[cfg(feature = "vm")]
fn close_others_on_exec() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // Linux before 5.11 can't, and leaves them as they are.
    // SAFETY: it changes flags of descriptors and touches no memory.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Has the runtime tell when a socket can be read from, or written to.
#[cfg(feature = "server")]
pub(crate) fn told_of(
    interest: Interest,
    socket: Arc<UnixStream>,
) -> io::Result<AsyncFd<Arc<UnixStream>>> {
    // SAFETY: a socket has one descriptor all its life, which is open for as long as this holds it;
    // that nobody puts another socket in its place can be seen where this is called.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// How much of what was sent over a socket its other side hasn't received: 0 if it has all.
#[cfg(feature = "server")]
pub(crate) fn unreceived(socket: impl AsFd) -> io::Result<i32> {
    let mut bytes: libc::c_int = 0;
    // Linux' SIOCOUTQ, whose number differs between architectures, is the same by definition.
    // SAFETY: the descriptor is open, and this call writes one int, which is what it is given.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) }
}

/// The longest handle of a file (`MAX_HANDLE_SZ` in Linux' `exportfs.h`).
#[cfg(feature = "server")]
const MAX_HANDLE: usize = 128;

/// Linux' `struct file_handle`.
#[cfg(feature = "server")]
#[repr(C)]
struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    name: [u8; MAX_HANDLE],
}

/// What a filesystem calls a file for good, its kind first: no other file there has the same, also
/// none that is made later. Of what `name` is in a directory, or without a name of `at` itself. A
/// link isn't followed.
#[cfg(feature = "server")]
pub(crate) fn file_handle(at: impl AsFd, name: &std::ffi::CStr) -> io::Result<Vec<u8>> {
    let most = libc::c_uint::try_from(MAX_HANDLE).unwrap_or(0);
    let mut found = Handle { bytes: most, kind: 0, name: [0; MAX_HANDLE] };
    let (at, mut mount): (_, libc::c_int) = (at.as_fd(), 0);
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: the descriptor is open and the name ends with a zero; the call writes one int, and no
    // more to the handle than `bytes` says, which is what there is.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            at.as_raw_fd(),
            name.as_ptr(),
            &raw mut found,
            &raw mut mount,
            flags,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(found.bytes).unwrap_or(MAX_HANDLE).min(MAX_HANDLE);
    Ok([&found.kind.to_ne_bytes()[..], &found.name[..length]].concat())
}

/// Has the kernel refuse the child to write past `bytes` of any file, with an error and no signal.
#[cfg(feature = "vm")]
pub(crate) fn limit_files(command: &mut Command, bytes: u64) {
    // Ours may be lower already, and can't be raised.
    let most = getrlimit(Resource::Fsize).maximum.map_or(bytes, |most| most.min(bytes));
    let limit = move || -> io::Result<()> {
        setrlimit(Resource::Fsize, Rlimit { current: Some(most), maximum: Some(most) })?;
        Ok(())
    };
    // SAFETY: the closures make one system call each and neither allocates nor takes a lock, so
    // they may run in the child between fork and exec; what is ignored stays so after the exec.
    unsafe {
        command.pre_exec(limit);
        command.pre_exec(ignore_file_size_signal);
    }
}

/// Has the kernel refuse the child more than so many descriptors, and to leave its memory on a disk
/// when it crashes.
#[cfg(feature = "vm")]
pub(crate) fn limit_descriptors(command: &mut Command, count: u64) {
    let most = getrlimit(Resource::Nofile).maximum.map_or(count, |most| most.min(count));
    let limit = move || -> io::Result<()> {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) })?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls and neither allocates nor takes a lock, so it may
    // run in the child between fork and exec.
    unsafe { command.pre_exec(limit) };
}

/// Has the child be in a cgroup, whose `cgroup.procs` this is.
#[cfg(feature = "vm")]
pub(crate) fn enter(command: &mut Command, processes: OwnedFd) {
    let enter = move || -> io::Result<()> {
        rustix::io::write(&processes, b"0")?;
        Ok(())
    };
    // SAFETY: the closure makes one system call and neither allocates nor takes a lock, so it may
    // run in the child between fork and exec.
    unsafe { command.pre_exec(enter) };
}

/// Has the child be another user's, without any of this one's rights. What needs them is to be
/// asked for before.
#[cfg(feature = "vm")]
pub(crate) fn change_user(command: &mut Command, uid: u32, gid: u32, groups: &[u32]) {
    let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let change = move || -> io::Result<()> {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    };
    // SAFETY: the closure makes three system calls, which speak of the child's only thread, and
    // neither allocates nor takes a lock, so it may run in the child between fork and exec.
    unsafe { command.pre_exec(change) };
}

#[cfg(feature = "vm")]
fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: no handler of ours is replaced, and none is installed.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a mount that nobody sees yet read-only, without devices, programs and set-user-ID: for
/// itself, and so for each copy of it that appears where it is attached. It takes Linux 5.12.
#[cfg(feature = "csi")]
pub(crate) fn make_mount_read_only(mount: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (fd, flags) = (mount.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is a string with its end, the attributes are of the size that is told, and
    // the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a [`Page`] in bytes.
#[cfg(all(feature = "vm", target_arch = "x86_64"))]
pub(crate) const PAGE: usize = 4096;

/// A page of a guest's memory. Atomic, since the guest may write to it at any time.
#[cfg(all(feature = "vm", target_arch = "x86_64"))]
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU8; PAGE]);

/// Gives a VM one page of memory at a guest address.
#[cfg(all(feature = "vm", target_arch = "x86_64"))]
pub(crate) fn map_guest_memory(
    vm: &VmFd,
    guest_address: u64,
    page: &'static Page,
) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: guest_address,
        memory_size: PAGE as u64,
        userspace_addr: std::ptr::from_ref(page) as u64,
    };
    // SAFETY: the page lives as long as the process, and so longer than any VM; its bytes are
    // atomic, so that nobody relies on what a guest may change.
    unsafe { vm.set_user_memory_region(region) }
}
