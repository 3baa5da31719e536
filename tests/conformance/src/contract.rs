//! The contract: its version and its promises, read from its text.

use std::collections::BTreeMap;

use crate::id::Id;

/// `CONTRACT.md`, by which this judge judges.
pub const TEXT: &str = include_str!("../CONTRACT.md");

/// One promise of a rule.
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

/// All promises, in the order of the contract: each is an entry of a list, and begins with an anchor
/// and its id in bold.
#[must_use]
pub fn promises() -> Vec<Promise> {
    let mut section = "";
    let mut found = Vec::new();
    for paragraph in TEXT.split("\n\n") {
        if let Some(heading) = paragraph.strip_prefix("## ") {
            section = heading;
        }
        for entry in format!("\n{paragraph}").split("\n- <a id=\"").skip(1) {
            let Some((id, text)) = after_anchor(entry) else { continue };
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push(Promise { id, section, text });
        }
    }
    found
}

/// The id of an entry and its text. An anchor that isn't its id makes it none.
fn after_anchor(entry: &str) -> Option<(Id, &str)> {
    let (anchor, rest) = entry.split_once("\"></a>**")?;
    let (id, text) = rest.split_once("** ")?;
    Some((id.parse().ok()?, text)).filter(|_| anchor == id)
}

/// The promises that no case judges, each with the reason.
#[must_use]
pub fn without_a_case() -> BTreeMap<Id, &'static str> {
    let row = |line: &'static str| {
        let (id, why) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        Some((id.parse().ok()?, why))
    };
    TEXT.lines().filter_map(row).collect()
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

    /// Each anchor is one of a promise, and promises of a rule are counted from 1.
    #[test]
    fn the_promises_are_numbered() {
        let promises = promises();
        assert_eq!(promises.len(), TEXT.matches("<a id=").count(), "an anchor isn't its id");
        let mut next = BTreeMap::new();
        for Promise { id, .. } in promises {
            let number: &mut u32 = next.entry(id.rule()).or_default();
            *number += 1;
            assert_eq!(id.to_string(), format!("{}.{number}", id.rule()));
        }
    }

    #[test]
    fn a_promise_is_its_text_without_the_reason() {
        let promises = promises();
        let l1 = promises.iter().find(|promise| promise.id.to_string() == "L1.2");
        let Promise { section, text, .. } = l1.expect("a promise of the contract");
        assert_eq!((*section, text.as_str()), ("Lifecycle", "The target isn't created then."));
    }
}
