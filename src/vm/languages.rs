//! The languages that there are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::language::Language;
use super::languages_file::{self, LanguagesError};

/// How much of an unknown name is said again, in characters.
const MAX_NAME: usize = 40;

/// The languages that VMs' code may be written in: those of [`Language::BUILT_IN`], and those that a
/// file configures.
///
/// # Example
///
/// ```
/// use overlay_pool::vm::{Language, Languages};
///
/// let languages = Languages::default();
/// assert_eq!(languages.find("py")?, Language::PYTHON);
/// # Ok::<(), overlay_pool::vm::UnknownLanguage>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Languages(Vec<Language>);

/// There is no language of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no language {name:?}: there are {languages}")]
pub struct UnknownLanguage {
    /// The name, or its beginning.
    pub name: String,
    /// Those that there are.
    pub languages: Languages,
}

impl Default for Languages {
    fn default() -> Self {
        Self(Language::BUILT_IN.to_vec())
    }
}

impl Languages {
    /// Those of [`Language::BUILT_IN`], and those of a TOML file: a table for each, with `command`
    /// and, if need be, `aliases`, `images`, `memory`, `rehearsal`, `file`, `waits` and `early`. The
    /// guide [for sandboxes](crate::guides::sandbox) says what they mean.
    ///
    /// What is read is kept for as long as the process lives: read a file once.
    ///
    /// # Errors
    ///
    /// A [`LanguagesError`] that names the file and, if its content is wrong, the line.
    pub fn read(path: &Path) -> Result<Self, LanguagesError> {
        let configured = languages_file::read(path)?;
        Ok(Self(Language::BUILT_IN.into_iter().chain(configured).collect()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Language> {
        self.0.iter().copied()
    }

    /// The language that is called so.
    ///
    /// # Errors
    ///
    /// [`UnknownLanguage`], which says what there is.
    pub fn find(&self, name: &str) -> Result<Language, UnknownLanguage> {
        let unknown = || {
            let name = name.chars().take(MAX_NAME).collect();
            UnknownLanguage { name, languages: self.clone() }
        };
        self.iter().find(|language| language.is_called(name)).ok_or_else(unknown)
    }

    /// Takes how many VMs of each language shall wait, as in `python=4,javascript=2`.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn counts(&self, text: &str) -> Result<BTreeMap<Language, u32>, String> {
        let one = |pair: &str| {
            let pair = pair
                .split_once('=')
                .and_then(|(language, count)| Some((language.trim(), count.trim().parse().ok()?)));
            let (language, count) = pair.ok_or_else(|| {
                "give a number for each language, as in python=4,javascript=2".to_owned()
            })?;
            Ok((self.find(language).map_err(|error| error.to_string())?, count))
        };
        text.split(',').map(one).collect()
    }
}

impl fmt::Display for Languages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Language::as_str).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("cobol", "no language \"cobol\": there are python, javascript, raw")]
    #[case("", "no language \"\": there are python, javascript, raw")]
    #[case("Python", "no language \"Python\": there are python, javascript, raw")]
    fn an_unknown_language_is_told_what_there_is(#[case] name: &str, #[case] said: &str) {
        assert_eq!(Languages::default().find(name).expect_err("unknown").to_string(), said);
    }

    #[rstest]
    fn an_endless_name_is_not_said_again() {
        let unknown = Languages::default().find(&"x".repeat(1 << 20)).expect_err("unknown");
        assert_eq!(unknown.name.len(), MAX_NAME);
    }

    #[rstest]
    fn counts_are_of_languages_by_any_of_their_names() {
        let counts = BTreeMap::from([(Language::PYTHON, 4), (Language::JAVASCRIPT, 2)]);
        assert_eq!(Languages::default().counts("py=4, node=2"), Ok(counts));
        let unknown = Languages::default().counts("python=4,ruby=1").expect_err("no ruby");
        assert_eq!(unknown, "no language \"ruby\": there are python, javascript, raw");
    }
}
