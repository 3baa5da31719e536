//! How much of the contract a port is judged by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Id;

/// A part of the contract; each holds the ones before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What every caller meets: S, L1 to L10, L13, A and T.
    Core,
    /// What crashes, other pools and other users do: C, D, L11 and L12 too.
    Crash,
    /// The whole contract: R too.
    Full,
}

impl Level {
    /// The first level that a rule or promise is part of. A rule of a group that isn't known yet
    /// is one of the whole contract.
    #[must_use]
    pub fn of(id: Id) -> Self {
        match id.parts() {
            ('L', 11 | 12) | ('C' | 'D', _) => Self::Crash,
            ('S' | 'L' | 'A' | 'T', _) => Self::Core,
            _ => Self::Full,
        }
    }

    /// The first level that has all of these.
    pub(crate) fn of_all(ids: &[Id]) -> Self {
        ids.iter().copied().map(Self::of).max().unwrap_or(Self::Full)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Core => "core",
            Self::Crash => "crash",
            Self::Full => "full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_of_the_level_that_has_all_its_promises() {
        let of = |ids: &[&str]| {
            let ids: Vec<Id> = ids.iter().map(|id| id.parse().expect("an id")).collect();
            Level::of_all(&ids)
        };
        assert_eq!(of(&["S1", "L10", "L13", "A5.2", "T2"]), Level::Core);
        assert_eq!(of(&["L11"]), Level::Crash);
        assert_eq!(of(&["A1", "L12.1", "C1", "D4"]), Level::Crash);
        assert_eq!(of(&["A5", "R1"]), Level::Full);
    }
}
