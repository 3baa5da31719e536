//! Ids of the contract's rules and promises.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The id of a rule, such as `A5`, or of one promise of it, such as `A5.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    group: char,
    rule: u32,
    promise: Option<u32>,
}

impl Id {
    /// The rule that it is, or is a promise of.
    #[must_use]
    pub fn rule(self) -> Self {
        Self { promise: None, ..self }
    }

    /// Whether it is the other, or a promise of that rule.
    #[must_use]
    pub fn is_of(self, other: Self) -> bool {
        self == other || self.rule() == other
    }

    /// Whether one of them is the other, or a promise of that rule.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.is_of(other) || other.is_of(self)
    }

    /// The letter that its rule begins with, and the number after it.
    pub(crate) fn parts(self) -> (char, u32) {
        (self.group, self.rule)
    }
}

/// What isn't an id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't an id of the contract, such as A5 or A5.2")]
pub struct NoId(String);

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let parse = || {
            let group = text.chars().next().filter(char::is_ascii_uppercase)?;
            let numbers = &text[1..];
            let (rule, promise) = match numbers.split_once('.') {
                Some((rule, promise)) => (rule, Some(number(promise)?)),
                None => (numbers, None),
            };
            Some(Self { group, rule: number(rule)?, promise })
        };
        parse().ok_or_else(|| NoId(text.to_owned()))
    }
}

/// A number without sign, leading zeros or blanks: each id is written in one way.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.group, self.rule)?;
        self.promise.map_or(Ok(()), |promise| write!(f, ".{promise}"))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The id of a rule, such as `A5`, or of one promise of it, such as `A5.2`.",
            "type": "string",
            "pattern": "^[A-Z][1-9][0-9]*(\\.[1-9][0-9]*)?$",
        })
    }
}

/// Ids in a row, as they are told.
pub(crate) fn told(ids: &[Id]) -> String {
    ids.iter().map(Id::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_one_way() {
        for text in ["A5", "L13", "A5.2", "A10.12"] {
            assert_eq!(text.parse::<Id>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "A", "a5", "A05", "A0", "A5.", "A5.0", "A5.2.1", "A+5", " A5", "5", "é5"]
        {
            assert_eq!(text.parse::<Id>(), Err(NoId(text.to_owned())));
        }
    }

    #[test]
    fn a_promise_is_of_its_rule_and_not_of_one_that_begins_alike() {
        let id = |text: &str| text.parse::<Id>().expect("an id");
        assert!(id("A1.2").is_of(id("A1")) && id("A1").is_of(id("A1")));
        assert!(!id("A1").is_of(id("A1.2")) && !id("A10").is_of(id("A1")));
    }
}
