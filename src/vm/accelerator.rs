//! What runs the guest's instructions.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::error::VmError;
use super::kvm;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM, if it is usable; otherwise VMs are refused. Never TCG, which is ten times slower.
    #[default]
    Auto,
    /// KVM, whatever the probe says.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

impl Accelerator {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Kvm, Self::Tcg];

    /// The name on the command line and in `OVERLAY_POOL_ACCEL`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Chooses between KVM and TCG. Blocks as long as [`kvm::probe`] does.
    ///
    /// # Errors
    ///
    /// [`VmError::NoAccelerator`] if [`Accelerator::Auto`] finds no usable KVM.
    pub fn resolve(self) -> Result<Self, VmError> {
        match self {
            Self::Auto => match kvm::probe() {
                kvm if kvm.is_usable() => Ok(Self::Kvm),
                kvm => Err(VmError::NoAccelerator { reason: kvm.to_string() }),
            },
            chosen => Ok(chosen),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Accelerator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|accelerator| accelerator.as_str() == text)
            .ok_or_else(|| "an accelerator is auto, kvm or tcg".to_owned())
    }
}
