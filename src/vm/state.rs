//! What a VM is doing.

use std::fmt;

use serde::Serialize;

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VmState {
    /// It gets its working directory and its disk.
    Creating,
    /// QEMU runs and the guest boots or is resumed.
    Booting,
    /// It waits for code.
    Ready,
    /// It runs code.
    Executing,
    /// QEMU is killed and the working directory removed.
    Destroying,
    /// Nothing of it is left.
    Destroyed,
}

impl VmState {
    /// Whether a VM may go from this state to `next`. Whatever it does, it can be destroyed.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use VmState::{Booting, Creating, Destroyed, Destroying, Executing, Ready};
        match next {
            Creating => false,
            Booting => self == Creating,
            Ready => matches!(self, Booting | Executing),
            Executing => self == Ready,
            Destroying => !matches!(self, Destroying | Destroyed),
            Destroyed => self == Destroying,
        }
    }
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Executing => "executing",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::VmState::{self, Booting, Creating, Destroyed, Destroying, Executing, Ready};

    #[rstest]
    #[case(Creating, &[Booting, Destroying])]
    #[case(Booting, &[Ready, Destroying])]
    #[case(Ready, &[Executing, Destroying])]
    #[case(Executing, &[Ready, Destroying])]
    #[case(Destroying, &[Destroyed])]
    #[case(Destroyed, &[])]
    fn transitions(#[case] from: VmState, #[case] allowed: &[VmState]) {
        let all = [Creating, Booting, Ready, Executing, Destroying, Destroyed];
        let may: Vec<_> = all.into_iter().filter(|next| from.may_become(*next)).collect();
        assert_eq!(may, allowed);
        assert_eq!(from.to_string(), format!("{from:?}").to_lowercase());
    }
}
