//! Whose VM it is.

use super::error::VmError;

const MAX_ID: usize = 128;

/// Refuses an id that isn't `[A-Za-z0-9_-]{1,128}`, since ids end up in logs and messages.
pub(super) fn check_id(what: &'static str, id: &str) -> Result<String, VmError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(good) {
        Ok(id.to_owned())
    } else {
        Err(VmError::BadId { what, id: id.chars().take(MAX_ID).collect() })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::check_id;

    #[rstest]
    #[case("a", true)]
    #[case("Tenant_1-b", true)]
    #[case(&"x".repeat(128), true)]
    #[case(&"x".repeat(129), false)]
    #[case("", false)]
    #[case("a b", false)]
    #[case("../a", false)]
    #[case("a\n", false)]
    #[case("ä", false)]
    fn ids(#[case] id: &str, #[case] good: bool) {
        assert_eq!(check_id("tenant", id).is_ok(), good);
    }
}
