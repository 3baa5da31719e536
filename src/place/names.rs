//! The names of owned directories: a prefix, and digits that can't be guessed.

use std::path::Path;

/// 128 random bits, as lower-case hexadecimal digits.
const DIGITS: usize = 32;

/// A new name with the owner's prefix.
pub(super) fn new_name(prefix: &str) -> String {
    format!("{prefix}{:0DIGITS$x}", rand::random::<u128>())
}

/// Whether a directory of this name is one of such an owner (rule D1).
pub(super) fn is_named(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(is_random)
}

/// Whether these are digits as of a new name.
pub(super) fn is_random(digits: &str) -> bool {
    digits.len() == DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a path leads through a directory that has the name of such an owner's (rule D4).
pub(crate) fn leads_through(path: &Path, prefix: &str) -> bool {
    let mut names = path.components().filter_map(|component| component.as_os_str().to_str());
    names.any(|name| is_named(name, prefix))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{is_named, new_name};

    #[rstest]
    #[case("pool-0123456789abcdef0123456789abcdef", true)]
    #[case("pool-0123456789ABCDEF0123456789ABCDEF", false)]
    #[case("pool-0123456789abcdef0123456789abcde", false)]
    #[case("pool-0123456789abcdef0123456789abcdef0", false)]
    #[case("pool-0123456789abcdef0123456789abcdeg", false)]
    #[case("vm-0123456789abcdef0123456789abcdef", false)]
    fn d1_names_of_owned_directories(#[case] name: &str, #[case] is_one: bool) {
        assert_eq!(is_named(name, "pool-"), is_one);
    }

    #[test]
    fn d1_new_names_are_such_names() {
        assert!(is_named(&new_name("pool-"), "pool-"));
    }
}
