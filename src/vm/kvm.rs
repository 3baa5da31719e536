//! Whether KVM can really run a guest.
//!
//! `/dev/kvm` can exist and even make a VM while no real guest makes headway: in some nested
//! setups every guest instruction is emulated. So a guest is run here, and timed.

use std::fmt;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

#[cfg(target_arch = "x86_64")]
mod guest;

/// How long a million guest instructions may take; real hardware needs a few milliseconds.
#[cfg(target_arch = "x86_64")]
const LIMIT: Duration = Duration::from_millis(100);
/// How long the answer is waited for, whatever the kernel does.
const PATIENCE: Duration = Duration::from_secs(2);

/// What KVM is good for on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// A guest ran as fast as it should.
    Usable {
        /// How long a million guest instructions took.
        elapsed: Duration,
    },
    /// `/dev/kvm` is there, but no guest should be run on it.
    PresentOnly {
        /// Why not.
        reason: String,
    },
    /// `/dev/kvm` is there, and this user may not open it.
    Forbidden {
        /// What the system said.
        reason: String,
    },
    /// There is no `/dev/kvm`.
    Absent {
        /// What the system said.
        reason: String,
    },
}

impl Kvm {
    /// Whether a guest can be run.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Usable { .. })
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable { elapsed } => {
                write!(f, "usable: a million guest instructions took {elapsed:.1?}")
            }
            Self::PresentOnly { reason } => write!(f, "only present: {reason}"),
            Self::Forbidden { reason } => write!(f, "forbidden: {reason}"),
            Self::Absent { reason } => write!(f, "absent: {reason}"),
        }
    }
}

/// Runs a small guest, once in a process, and says what became of it. Blocks for 2 seconds at
/// most, and rarely for more than a tenth.
///
/// # Example
///
/// ```
/// use overlay_pool::vm::kvm;
///
/// let accelerator = if kvm::probe().is_usable() { "kvm" } else { "tcg" };
/// # let _ = accelerator;
/// ```
#[must_use]
pub fn probe() -> &'static Kvm {
    static PROBE: OnceLock<Kvm> = OnceLock::new();
    PROBE.get_or_init(|| bounded(PATIENCE, run))
}

/// Gives `run` a thread of its own, which is left behind if the kernel never lets it go.
fn bounded(patience: Duration, run: impl FnOnce() -> Kvm + Send + 'static) -> Kvm {
    let present = |reason| Kvm::PresentOnly { reason };
    let (answer, answered) = sync_channel(1);
    let probe = move || drop(answer.send(run()));
    if let Err(error) = thread::Builder::new().name("overlay-pool-kvm".to_owned()).spawn(probe) {
        return present(format!("no thread to run a guest on: {error}"));
    }
    answered.recv_timeout(patience).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => present(format!("the guest didn't end in {patience:?}")),
        RecvTimeoutError::Disconnected => present("the probe failed".to_owned()),
    })
}

#[cfg(target_arch = "x86_64")]
fn run() -> Kvm {
    let present = |reason| Kvm::PresentOnly { reason };
    match guest::run(LIMIT) {
        Ok(elapsed) if elapsed <= LIMIT => Kvm::Usable { elapsed },
        Ok(_) => present(format!(
            "a million guest instructions take more than {LIMIT:?}, so that no real guest makes \
             headway"
        )),
        Err(guest::GuestError::NoDevice(error)) => {
            Kvm::Absent { reason: format!("/dev/kvm: {error}") }
        }
        Err(guest::GuestError::Forbidden(error)) => Kvm::Forbidden {
            reason: format!(
                "/dev/kvm: {error}: let this user open it, by the group kvm on most systems"
            ),
        },
        Err(error) => present(error.to_string()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run() -> Kvm {
    Kvm::PresentOnly { reason: "the guest that would tell is written for x86-64".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::{Kvm, bounded};

    #[rstest]
    fn a_guest_that_never_ends_is_given_up() {
        let never = || loop {
            std::thread::park();
        };
        let kvm = bounded(Duration::from_millis(10), never);
        assert_eq!(kvm.to_string(), "only present: the guest didn't end in 10ms");
    }

    #[rstest]
    fn a_probe_that_fails_is_an_answer() {
        let kvm = bounded(Duration::from_secs(60), || panic!("as the test wants it"));
        assert_eq!(kvm, Kvm::PresentOnly { reason: "the probe failed".to_owned() });
    }
}
