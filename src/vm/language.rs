//! What a VM's code is written in.

use std::fmt;

use serde::{Serialize, Serializer};

use super::interpreter::{Interpreter, NODE, PYTHON, SHELL};

/// What a VM's code is written in, which chooses its base image and what runs the code: an entry of
/// the table of interpreters. [`Languages`](super::Languages) finds one by its name, and reads more of
/// them from a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Language(&'static Interpreter);

impl Language {
    /// Python 3.
    pub const PYTHON: Self = Self(&PYTHON);
    /// JavaScript, by Node.js.
    pub const JAVASCRIPT: Self = Self(&NODE);
    /// The guest's own shell, on a base image of the caller's: any with a busybox, our `init` and
    /// supervisor.
    pub const RAW: Self = Self(&SHELL);
    /// Those that no file has to name.
    pub const BUILT_IN: [Self; 3] = [Self::PYTHON, Self::JAVASCRIPT, Self::RAW];

    /// One more, for as long as the process lives.
    pub(super) fn new(interpreter: Interpreter) -> Self {
        Self(Box::leak(Box::new(interpreter)))
    }

    /// Its name, on the command line and over HTTP.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    /// What else it may be called.
    #[must_use]
    pub fn aliases(self) -> &'static [&'static str] {
        self.0.aliases
    }

    /// What its base images are named, as a shell would have it: `python-*-base-*.qcow2`.
    #[must_use]
    pub fn images(self) -> &'static str {
        self.0.images
    }

    /// Whether a file's name is that of a base image of this language.
    #[must_use]
    pub fn is_base_name(self, name: &str) -> bool {
        fits(self.0.images, name)
    }

    /// Whether it may be called so.
    pub(super) fn is_called(self, name: &str) -> bool {
        self.0.name == name || self.0.aliases.contains(&name)
    }

    /// How much memory the guest has if the settings don't say, in MiB.
    pub(super) fn memory_mib(self) -> u32 {
        self.0.memory_mib
    }

    /// What runs its code.
    pub(super) fn interpreter(self) -> &'static Interpreter {
        self.0
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters; hidden files only fit one
/// that begins with their dot.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    if first.is_empty() && name.starts_with('.') {
        return false;
    }
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some((_, rest)) = name.split_once(part) else { return false };
        name = rest;
    }
    name.ends_with(last)
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Language {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Language, fits};

    #[rstest]
    #[case("python-3.13-base-x86_64.qcow2", Some(Language::PYTHON))]
    #[case("node-20.x-base-x86_64.qcow2", Some(Language::JAVASCRIPT))]
    #[case("raw-base-x86_64.qcow2", Some(Language::RAW))]
    #[case("python-base-x86_64.qcow2", None)]
    #[case("python-3.13-base-x86_64.img", None)]
    #[case("my-python-3.13-base-x86_64.qcow2", None)]
    #[case("raw-3-base-x86_64.qcow2", None)]
    #[case("", None)]
    fn base_images_are_known_by_name(#[case] name: &str, #[case] language: Option<Language>) {
        let languages = Language::BUILT_IN.into_iter();
        let found: Vec<_> = languages.filter(|language| language.is_base_name(name)).collect();
        assert_eq!(found, Vec::from_iter(language));
    }

    #[rstest]
    #[case("ruby.qcow2", "ruby.qcow2", true)]
    #[case("ruby.qcow2", "ruby.qcow2.part", false)]
    #[case("ruby*", "ruby", true)]
    #[case("*.qcow2", "ruby.qcow2", true)]
    #[case("*.qcow2", ".ruby.qcow2", false)]
    #[case(".*.qcow2", ".ruby.qcow2", true)]
    #[case("a*a", "a", false)]
    #[case("a*a", "aa", true)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*b*b", "a-b", false)]
    #[case("a**b", "ab", true)]
    #[case("*", "any", true)]
    fn a_pattern_is_as_a_shell_s(#[case] pattern: &str, #[case] name: &str, #[case] good: bool) {
        assert_eq!(fits(pattern, name), good);
    }
}
