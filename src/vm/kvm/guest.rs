//! A guest of one page: a million instructions in real mode.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use rustix::io::Errno;

use crate::sys::{self, PAGE, Page};

/// The guest leaves to us this often, so that we look at the clock.
const SLICES: u32 = 100;
const ADDRESS: u64 = 0x1000;
/// Ten thousand instructions, and out.
const PROGRAM: [u8; 9] = [
    0xb9, 0x88, 0x13, // again: mov cx, 5000
    0x49, //             loop:  dec cx
    0x75, 0xfd, //              jnz loop
    0xf4, //                    hlt
    0xeb, 0xf7, //              jmp again
];
/// Interrupts off; the other bit is always one.
const FLAGS: u64 = 1 << 1;

/// Why no guest ran.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuestError {
    #[error("{0}")]
    NoDevice(io::Error),
    #[error("{0}")]
    Forbidden(io::Error),
    #[error("{0} failed: {1}")]
    Call(&'static str, io::Error),
    #[error("the guest ended by itself: {0}")]
    Exit(String),
}

/// Runs the guest until it is through or `limit` is over; says how long it ran.
pub(super) fn run(limit: Duration) -> Result<Duration, GuestError> {
    static RAM: Page = Page([const { AtomicU8::new(0) }; PAGE]);
    for (byte, value) in RAM.0.iter().zip(PROGRAM) {
        byte.store(value, Ordering::Relaxed);
    }
    let failed = |call| move |errno: kvm_ioctls::Error| GuestError::Call(call, errno.into());

    let kvm = Kvm::new().map_err(|errno| open_failed(errno.into()))?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    sys::map_guest_memory(&vm, ADDRESS, &RAM).map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    set_registers(&vcpu).map_err(failed("KVM_SET_REGS"))?;

    let start = Instant::now();
    for _ in 0..SLICES {
        match vcpu.run().map_err(failed("KVM_RUN"))? {
            VcpuExit::Hlt => {}
            other => return Err(GuestError::Exit(format!("{other:?}"))),
        }
        if start.elapsed() > limit {
            break;
        }
    }
    Ok(start.elapsed())
}

fn open_failed(error: io::Error) -> GuestError {
    match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => GuestError::NoDevice(error),
        Some(Errno::ACCESS | Errno::PERM) => GuestError::Forbidden(error),
        _ => GuestError::Call("opening /dev/kvm", error),
    }
}

/// A vCPU starts in real mode; we only say at which address.
fn set_registers(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: ADDRESS, rflags: FLAGS, ..kvm_regs::default() })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use rustix::io::Errno;

    use super::{GuestError, open_failed};

    /// What is to be done about it differs.
    #[rstest]
    fn a_device_that_may_not_be_opened_is_not_a_missing_one() {
        assert!(matches!(open_failed(Errno::ACCESS.into()), GuestError::Forbidden(_)));
        assert!(matches!(open_failed(Errno::NOENT.into()), GuestError::NoDevice(_)));
        assert!(matches!(open_failed(Errno::BUSY.into()), GuestError::Call(..)));
    }
}
