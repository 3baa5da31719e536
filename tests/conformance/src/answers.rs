//! A port's answers, by the contract's names and in words.

use crate::shim::Answer;

/// The errors of the contract, and that of a request which was cancelled.
pub(super) const ERRORS: [&str; 9] = [
    "not-started",
    "already-started",
    "already-exists",
    "bad-base",
    "bad-path",
    "bad-target",
    "create-failed",
    "creator-unavailable",
    "cancelled",
];

/// An answer in words.
pub(super) fn told(answer: &Answer) -> String {
    match answer {
        Ok(value) => format!("a success, {value}"),
        Err(error) => told_error(error),
    }
}

pub(super) fn told_error((name, message): &(String, String)) -> String {
    let hint = if ERRORS.contains(&name.as_str()) {
        ""
    } else {
        "; the contract has no such name: map it in shim.toml, [errors]"
    };
    format!("the error {name} (\"{message}\"){hint}")
}

/// What was expected, in words: one of these errors, or a success.
pub(super) fn wanted(errors: &[String]) -> String {
    if errors.is_empty() { "a success".to_owned() } else { errors.join(" or ") }
}
