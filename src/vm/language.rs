//! What a VM's code is written in.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What a VM's code is written in, which chooses its base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python 3.
    Python,
    /// JavaScript, by Node.js.
    Javascript,
    /// The guest's own shell, on a base image of the caller's: any with a busybox, our `init` and
    /// supervisor.
    Raw,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Python, Self::Javascript, Self::Raw];

    /// The name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Raw => "raw",
        }
    }

    /// What it may be called on the command line as well.
    #[must_use]
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Python => &["py"],
            Self::Javascript => &["js", "node"],
            Self::Raw => &["sh"],
        }
    }

    /// Whether a file's name is that of a base image of this language: `python-*-base-*.qcow2`,
    /// `node-*-base-*.qcow2`, `raw-base-*.qcow2`.
    #[must_use]
    pub fn is_base_name(self, name: &str) -> bool {
        let Some(stem) = name.strip_suffix(".qcow2") else { return false };
        match self {
            Self::Python => {
                stem.strip_prefix("python-").is_some_and(|rest| rest.contains("-base-"))
            }
            Self::Javascript => {
                stem.strip_prefix("node-").is_some_and(|rest| rest.contains("-base-"))
            }
            Self::Raw => stem.starts_with("raw-base-"),
        }
    }

    /// How much memory the guest has if the settings don't say, in MiB.
    pub(super) fn memory_mib(self) -> u32 {
        match self {
            Self::Python | Self::Raw => 128,
            Self::Javascript => 256,
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Language {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_named =
            |language: &Self| language.as_str() == text || language.aliases().contains(&text);
        Self::ALL
            .into_iter()
            .find(is_named)
            .ok_or_else(|| "a language is python, javascript or raw".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Language;

    #[rstest]
    #[case("python-3.13-base-x86_64.qcow2", Some(Language::Python))]
    #[case("node-20.x-base-x86_64.qcow2", Some(Language::Javascript))]
    #[case("raw-base-x86_64.qcow2", Some(Language::Raw))]
    #[case("python-base-x86_64.qcow2", None)]
    #[case("python-3.13-base-x86_64.img", None)]
    #[case("my-python-3.13-base-x86_64.qcow2", None)]
    #[case("raw-3-base-x86_64.qcow2", None)]
    #[case("", None)]
    fn base_images_are_known_by_name(#[case] name: &str, #[case] language: Option<Language>) {
        let found: Vec<_> = Language::ALL.into_iter().filter(|l| l.is_base_name(name)).collect();
        assert_eq!(found, Vec::from_iter(language));
    }
}
