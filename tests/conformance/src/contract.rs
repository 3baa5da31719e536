//! The contract: its version, its rules and their promises, read from its text.

use crate::id::Id;

/// `CONTRACT.md`, by which this judge judges.
pub const TEXT: &str = include_str!("../CONTRACT.md");

/// A rule, or one promise of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What it is known by.
    pub id: Id,
    /// The heading that it stands under.
    pub section: &'static str,
    /// What it says, in one line.
    pub text: String,
}

/// The version of the contract, `MAJOR.MINOR.PATCH`.
///
/// # Panics
///
/// The text that this was built from names none; a test of this crate fails then.
#[must_use]
pub fn version() -> &'static str {
    let after = TEXT.split_once("\nVersion ").expect("CONTRACT.md has a line with its version").1;
    after.split_whitespace().next().expect("a version").trim_end_matches('.')
}

/// All rules and promises, in the order of the contract. Each begins with its id in bold, and ends
/// before the next one or with its paragraph; reasons are left out.
#[must_use]
pub fn promises() -> Vec<Promise> {
    let mut section = "";
    let mut found = Vec::new();
    for paragraph in TEXT.split("\n\n") {
        if let Some(heading) = paragraph.strip_prefix("## ") {
            section = heading.lines().next().unwrap_or_default();
        }
        let body = paragraph.split("\n*Reason:*").next().unwrap_or_default();
        let mut ids = bold_ids(body).peekable();
        while let Some((_, start, id)) = ids.next() {
            let end = ids.peek().map_or(body.len(), |(next, ..)| *next);
            let text = body[start..end].split_whitespace().collect::<Vec<_>>().join(" ");
            found.push(Promise { id, section, text });
        }
    }
    found
}

/// Ids in bold, each with where its markup begins and ends.
fn bold_ids(text: &str) -> impl Iterator<Item = (usize, usize, Id)> {
    text.match_indices("**").filter_map(|(at, _)| {
        let (inner, _) = text[at + 2..].split_once("**")?;
        Some((at, at + 2 + inner.len() + 2, inner.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_has_a_version() {
        let numbers: Vec<Result<u32, _>> = version().split('.').map(str::parse).collect();
        assert!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "{}", version());
        assert!(TEXT.contains(&format!("\n- **{}**", version())), "the changelog has no entry");
    }

    #[test]
    fn a_promise_is_its_text_without_the_reason() {
        let promises = promises();
        let l1 = promises.iter().find(|promise| promise.id.to_string() == "L1");
        let Promise { section, text, .. } = l1.expect("a rule of the contract");
        assert_eq!(*section, "Lifecycle");
        assert!(text.starts_with("`acquire` on a pool that") && !text.contains("Reason"), "{text}");
    }
}
