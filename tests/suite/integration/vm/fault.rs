//! Guests and hosts that fail.

use overlay_pool::vm::{Language, VmError, VmSettings, VmState};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, create, execute, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

#[apply(test)]
async fn a_guest_that_panics(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let code = "open('/proc/sysrq-trigger', 'w').write('c')";
    let error = vm.execute(code, None).await.expect_err("the guest panics");
    let VmError::Ended { said, log: Some(log), .. } = &error else { panic!("{error:?}") };
    assert!(said.contains("Kernel panic"), "{error}");
    let console = std::fs::read_to_string(log).expect("the console is kept");
    assert!(console.contains("sysrq"), "{console}");
    assert_eq!(vm.state(), VmState::Destroyed);
    assert!(manager.active_vms().is_empty());
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_qemu_that_is_killed(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let pid = Pid::from_raw(i32::try_from(vm.pid().expect("a process")).expect("a PID"));
    let kill = async {
        eventually("code runs", || vm.state() == VmState::Executing).await;
        kill_process(pid.expect("a PID"), Signal::KILL).expect("it is killed");
    };
    let (ended, ()) = tokio::join!(vm.execute("import time\ntime.sleep(1000)", None), kill);
    let error = ended.expect_err("QEMU is gone");
    let VmError::Ended { status, .. } = &error else { panic!("{error:?}") };
    assert!(status.contains("SIGKILL"), "{error}");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// The supervisor is a process of the guest's, whose code is root: it can't be killed all the same.
#[apply(test)]
async fn a_supervisor_outlives_what_it_runs(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let code = "import os, signal\nfor number in range(1, 32):\n  os.kill(1, number)\n\
                os.kill(-1, signal.SIGKILL)\nprint('alone')";
    assert_eq!(prints(&vm, code).await, "alone\n");
    assert_eq!(prints(&vm, "print('again')").await, "again\n");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// Code that is root can speak on the port itself.
#[apply(test)]
#[case::a_long_frame("os.write(port, b'\\x05\\xff\\xff\\xff')", "isn't to be trusted")]
#[case::a_flood(
    "while True: os.write(port, b'\\x05\\x00\\x40\\x00' + b'x' * 16384)",
    "more output than it may send"
)]
#[case::nothing("while True: os.write(port, b'\\x03\\0\\0\\0' * 4096)", "mean nothing")]
#[case::json("while True: os.write(port, b'{\"\":0},' * 1000)", "isn't to be trusted")]
async fn a_guest_that_lies_is_destroyed(scratch: Scratch, #[case] lie: &str, #[case] why: &str) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let code = format!(
        "import ctypes, os
fds = os.listdir('/proc/1/fd')
port = next(fd for fd in fds if 'vport' in os.readlink('/proc/1/fd/' + fd))
pidfd_getfd = 438
port = ctypes.CDLL(None).syscall(pidfd_getfd, os.pidfd_open(1), int(port), 0)
assert port >= 0
os.set_blocking(port, True)
{lie}
import time
time.sleep(1000)"
    );
    let error = vm.execute(code, None).await.expect_err("a lie");
    assert!(matches!(error, VmError::Guest { .. }), "{error:?}");
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(vm.state(), VmState::Destroyed);
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// The kernel keeps the limit, whatever QEMU is made to write.
#[apply(test)]
async fn a_disk_that_reaches_its_limit(scratch: Scratch) {
    let settings = VmSettings { disk_mib: 32, ..settings(&scratch) };
    let manager = started(settings, Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let code = "import os
try:
  with open('/root/file', 'wb') as file:
    for _ in range(64):
      file.write(os.urandom(1 << 20))
    file.flush()
    os.fsync(file.fileno())
except OSError as error:
  print('failed')";
    let execution = execute(&vm, code).await;
    assert_eq!(execution.stdout.text(), "failed\n");
    assert!(execution.disk_failed);
    let length = vm.disk().expect("a disk").metadata().expect("a file").len();
    assert!(length <= 32 << 20, "{length}");
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// What a guest writes on its console takes a bounded room.
#[apply(test)]
async fn a_console_that_is_flooded(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::PYTHON).await;
    let vm = create(&manager, Language::PYTHON).await;
    let code = "with open('/dev/console', 'w') as console:\n  for _ in range(3000):\n    \
                console.write('x' * 99 + '\\n')";
    assert_eq!(execute(&vm, code).await.end.code(), 0);
    eventually("the end of it is kept", || vm.console().len() == 64 << 10).await;
    assert_eq!(prints(&vm, "print('well')").await, "well\n");
    manager.stop().await;
}
