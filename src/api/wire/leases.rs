//! Disks that were acquired with an id.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
#[cfg(feature = "server")]
use utoipa::ToSchema;

use super::{Source, path};

/// What a caller calls a disk, or the owner of some: 1 to 128 ASCII letters, digits and any of
/// `-._:@`, of which the first is a letter or a digit. So it stands in a URL as it is.
///
/// # Example
///
/// ```
/// use overlay_pool::api::Label;
///
/// let id: Label = "vm-17".parse()?;
/// assert_eq!(id.as_str(), "vm-17");
/// assert!("no spaces".parse::<Label>().is_err());
/// # Ok::<(), overlay_pool::api::LabelError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Label(String);

/// The longest label, in bytes.
const LONGEST: usize = 128;

impl Label {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give 1 to {LONGEST} ASCII letters, digits and -._:@, of which the first is a letter or a digit"
)]
pub struct LabelError;

impl TryFrom<String> for Label {
    type Error = LabelError;

    fn try_from(text: String) -> Result<Self, LabelError> {
        let bytes = text.as_bytes();
        let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:@".contains(byte);
        let begins_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        if begins_well && bytes.len() <= LONGEST && bytes.iter().all(is_good) {
            Ok(Self(text))
        } else {
            Err(LabelError)
        }
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        text.to_owned().try_into()
    }
}

/// A disk that was acquired with an id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(ToSchema))]
#[non_exhaustive]
pub struct Lease {
    /// What its user calls it.
    #[cfg_attr(feature = "server", schema(value_type = String, example = "vm-17"))]
    pub id: Label,
    /// The label that it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schema(value_type = Option<String>, example = "ci"))]
    pub owner: Option<Label>,
    /// The user that it belongs to.
    #[cfg_attr(feature = "server", schema(value_type = i64, minimum = 0, maximum = 4_294_967_295_i64))]
    pub uid: u32,
    /// Where the overlay came from.
    pub source: Source,
    /// The base image's resolved path.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/images/python-3-base-x86_64.qcow2",
    ))]
    pub base: PathBuf,
    /// Where the overlay is.
    #[serde(serialize_with = "path")]
    #[cfg_attr(feature = "server", schema(
        value_type = String, example = "/var/lib/vms/run/17/disk.qcow2",
    ))]
    pub target: PathBuf,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::{Label, LabelError};

    #[rstest]
    #[case("1")]
    #[case("vm-17")]
    #[case("csi-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")]
    #[case("ns:pod.example_1@host")]
    #[case(&"a".repeat(128))]
    fn a_label_is_kept_as_it_is(#[case] text: &str) {
        let label: Label = text.parse().expect("a label");
        assert_eq!((label.as_str(), label.to_string()), (text, text.to_owned()));
        assert_eq!(serde_json::to_value(&label).expect("JSON"), json!(text));
        assert_eq!(serde_json::from_value::<Label>(json!(text)).expect("a label"), label);
    }

    #[rstest]
    #[case::empty("")]
    #[case::a_directory(".")]
    #[case::the_one_above("..")]
    #[case::hidden(".vm")]
    #[case::an_option("-vm")]
    #[case::slash("a/b")]
    #[case::space("a b")]
    #[case::last_space("a ")]
    #[case::line("a\n")]
    #[case::nul("a\0")]
    #[case::percent("a%2f")]
    #[case::query("a?b")]
    #[case::plus("a+b")]
    #[case::umlaut("ä")]
    #[case::wide_digit("１")]
    #[case::too_long(&"a".repeat(129))]
    fn all_else_is_none(#[case] text: &str) {
        assert_eq!(text.parse::<Label>(), Err(LabelError));
        serde_json::from_value::<Label>(json!(text)).expect_err("no label");
    }
}
