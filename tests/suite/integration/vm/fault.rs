//! Guests and hosts that fail.

use std::time::Duration;

use overlay_pool::vm::{Language, VmError, VmState};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::prelude::*;
use crate::harness::vms::{assert_no_vm_left, create, execute, prints, settings, started};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

#[rstest]
#[test_attr(apply(case))]
async fn a_guest_that_panics(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
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

#[rstest]
#[test_attr(apply(case))]
async fn a_qemu_that_is_killed(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
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

/// The agent is a process of the guest's, which its code may kill; init starts the next.
#[rstest]
#[test_attr(apply(case))]
async fn an_agent_that_is_killed(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
    let code = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)";
    let error = vm.execute(code, Some(Duration::from_secs(20))).await.expect_err("no answer");
    assert!(matches!(error, VmError::Agent { .. }), "{error:?}");
    if vm.state() == VmState::Ready {
        assert_eq!(prints(&vm, "print('again')").await, "again\n");
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// What a guest writes on its console takes a bounded room.
#[rstest]
#[test_attr(apply(case))]
async fn a_console_that_is_flooded(scratch: Scratch) {
    let manager = started(settings(&scratch), Language::Python).await;
    let vm = create(&manager, Language::Python).await;
    let code = "with open('/dev/console', 'w') as console:\n  for _ in range(3000):\n    \
                console.write('x' * 99 + '\\n')";
    assert_eq!(execute(&vm, code).await.end.code(), 0);
    eventually("the end of it is kept", || vm.console().len() == 64 << 10).await;
    assert_eq!(prints(&vm, "print('well')").await, "well\n");
    manager.stop().await;
}
