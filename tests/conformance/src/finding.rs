//! What a case found fault with, and at which step.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::Id;
use crate::shim::Failure;

/// Why a case isn't passed, and where that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The step; none where none was begun.
    pub step: Option<Place>,
    /// What was seen.
    pub failure: Failure,
}

/// A step of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its number, from 1.
    pub number: usize,
    /// As the case's file has it.
    pub written: String,
}

impl Finding {
    /// What was seen outside of any step.
    pub(crate) fn unfit(what: impl fmt::Display) -> Self {
        Self { step: None, failure: Failure::Unfit(what.to_string()) }
    }

    /// The rule or promise that the failure names, and what it says after that.
    #[must_use]
    pub fn promise(&self) -> (Option<Id>, &str) {
        let what = self.failure.what();
        match what.split_once(": ") {
            Some((ids, rest)) => match ids.split(", ").next().and_then(|id| id.parse().ok()) {
                Some(id) => (Some(id), rest),
                None => (None, what),
            },
            None => (None, what),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.failure.kind();
        let what = self.failure.what();
        match &self.step {
            Some(Place { number, written }) => {
                write!(f, "{kind}: step {number}, {written}: {what}")
            }
            None => write!(f, "{kind}: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promise_is_what_the_failure_begins_with() {
        let promise = |what: &str| {
            let failure = Failure::Broken(what.to_owned());
            let finding = Finding { step: None, failure };
            let (id, rest) = finding.promise();
            (id.map(|id| id.to_string()), rest.to_owned())
        };
        let named = |id: &str, rest: &str| (Some(id.to_owned()), rest.to_owned());
        assert_eq!(promise("A5.2: it is there: x"), named("A5.2", "it is there: x"));
        assert_eq!(promise("D1, L13: none"), named("D1", "none"));
        assert_eq!(promise("x is there: A5: y"), (None, "x is there: A5: y".to_owned()));
        assert_eq!(promise("nothing"), (None, "nothing".to_owned()));
    }
}
