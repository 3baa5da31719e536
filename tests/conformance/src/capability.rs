//! What a port may leave out, if it says so in its answer to `hello`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::case::{Case, Format, Image};
use crate::id::Id;
use crate::step::Step;

/// Something that a port may declare that it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// `cancel`, of acquires and starts.
    Cancel,
    /// `chdir`: the pool isn't in the shim's process, or can't change its directory.
    Chdir,
    /// The counters of `stats` (rule T2).
    Counters,
    /// `start` without a list of base images (rule L9).
    Discovery,
    /// Base images that are raw.
    Raw,
    /// `shelf_idle_ms` (rule R4).
    ShelfIdle,
    /// `virtual_size` of an acquire (rule A9).
    VirtualSize,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cancel,
        Self::Chdir,
        Self::Counters,
        Self::Discovery,
        Self::Raw,
        Self::ShelfIdle,
        Self::VirtualSize,
    ];

    /// Whether a case can't be passed without it.
    #[must_use]
    pub fn is_wanted_by(self, case: &Case) -> bool {
        let is_raw = |image: &Image| image.format == Format::Raw;
        match self {
            Self::Cancel => case.has(|step| {
                matches!(step, Step::AcquireCancelled { .. } | Step::StartCancelled { .. })
            }),
            Self::Chdir => case.has(|step| matches!(step, Step::Chdir { .. })),
            Self::Counters => case.is_about("T2"),
            Self::Discovery => case.has(|step| matches!(step, Step::Start { bases: None, .. })),
            Self::Raw => {
                case.images.values().any(is_raw)
                    || case.has(|step| matches!(step, Step::Image { image, .. } if is_raw(image)))
                    // Any image can be declared raw.
                    || case.has(|step| step.declares(Format::Raw, |_| true))
            }
            Self::ShelfIdle => case.config.shelf_idle_ms.is_some(),
            Self::VirtualSize => case.has(|step| {
                let Step::Acquire { virtual_size_mib, virtual_size, .. } = step else {
                    return false;
                };
                virtual_size_mib.is_some() || virtual_size.is_some()
            }),
        }
    }

    /// Whether a promise can't be kept without it, though cases of it are passed.
    pub(crate) fn is_wanted_for(self, promise: Id) -> bool {
        let id = promise.to_string();
        self == Self::Counters && (id.starts_with("T2.") || COUNTED.contains(&id.as_str()))
    }
}

/// Promises of other rules than T2 that speak of counters.
const COUNTED: [&str; 6] = ["A5.1", "A10.3", "A13.4", "L6.2", "L12.2", "R4.4"];

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancel => "cancel",
            Self::Chdir => "chdir",
            Self::Counters => "counters",
            Self::Discovery => "discovery",
            Self::Raw => "raw",
            Self::ShelfIdle => "shelf-idle",
            Self::VirtualSize => "virtual-size",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_qcow2_may_be_declared_raw() {
        let case = |format: &str| {
            let text = format!(
                "about = ''\npromises = ['A8.5']\nimages.'base.qcow2' = {{}}\n\
                 steps = [{{ do = 'acquire', target = 'vm.qcow2', format = '{format}' }}]\n"
            );
            Case::read(text).expect("a case")
        };
        assert!(Capability::Raw.is_wanted_by(&case("raw")));
        assert!(!Capability::Raw.is_wanted_by(&case("qcow2")));
    }
}
