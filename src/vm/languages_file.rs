//! A file of languages, in TOML: a table for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::interpreter::{Interpreter, Rehearsal, Takes};
use super::language::Language;

/// The most bytes that a file may have.
const MAX_FILE: u64 = 1 << 20;
/// The most bytes of a command: a program's own arguments and variables share a frame with it.
const MAX_COMMAND: usize = 32 << 10;
/// The longest name.
const MAX_NAME: usize = 32;
/// How much memory a guest may have, in MiB.
const MEMORY: std::ops::RangeInclusive<u32> = 32..=1 << 20;
/// How much it has unless the file says otherwise.
const USUAL_MEMORY: u32 = 128;
/// The guest's folder for code, in its memory.
const FOLDER: &str = "/run";

/// Why a file names no languages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LanguagesError {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it is wrong.
    #[error("{}: line {line}: {cause}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what it should be.
        cause: String,
    },
}

/// The languages of a file, which live for as long as the process.
pub(super) fn read(path: &Path) -> Result<Vec<Language>, LanguagesError> {
    let text = text(path).map_err(|source| LanguagesError::Read { path: path.into(), source })?;
    let interpreters = parse(&text).map_err(|Wrong { at, cause }| {
        let before = text.bytes().take(at.start);
        let line = 1 + before.filter(|byte| *byte == b'\n').count();
        LanguagesError::Wrong { path: path.into(), line, cause }
    })?;
    Ok(interpreters.into_iter().map(Language::new).collect())
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("over {MAX_FILE} bytes, which is no such file")));
    }
    Ok(text)
}

/// What is wrong, and where.
#[derive(Debug)]
struct Wrong {
    at: Range<usize>,
    cause: String,
}

impl Wrong {
    fn new<T>(there: &Spanned<T>, cause: impl Into<String>) -> Self {
        Self { at: there.span(), cause: cause.into() }
    }
}

impl From<toml::de::Error> for Wrong {
    fn from(error: toml::de::Error) -> Self {
        Self { at: error.span().unwrap_or_default(), cause: error.message().to_owned() }
    }
}

/// A language as the file has it, below its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    command: Spanned<Vec<String>>,
    #[serde(default)]
    aliases: Vec<Spanned<String>>,
    images: Option<Spanned<String>>,
    memory: Option<Spanned<u32>>,
    rehearsal: Option<String>,
    file: Option<Spanned<String>>,
    #[serde(default)]
    waits: bool,
    early: Option<Spanned<Vec<String>>>,
}

fn parse(text: &str) -> Result<Vec<Interpreter>, Wrong> {
    let entries: BTreeMap<Spanned<String>, Entry> = toml::from_str(text)?;
    let built_in = Language::BUILT_IN.into_iter();
    let mut taken: BTreeSet<String> = built_in
        .flat_map(|language| [&[language.as_str()], language.aliases()].concat())
        .map(str::to_owned)
        .collect();
    for (name, entry) in &entries {
        for name in std::iter::once(name).chain(&entry.aliases) {
            check_name(name)?;
            if !taken.insert(name.get_ref().clone()) {
                let cause = format!("another language is called {:?}", name.get_ref());
                return Err(Wrong::new(name, cause));
            }
        }
    }
    entries.into_iter().map(|(name, entry)| entry.interpreter(name.into_inner())).collect()
}

impl Entry {
    fn interpreter(self, name: String) -> Result<Interpreter, Wrong> {
        check_command(&self.command)?;
        if let Some(images) = &self.images {
            let good = !images.get_ref().is_empty() && !images.get_ref().contains(['/', '\0']);
            let cause = "images: give the name of a file, with * for any characters";
            good.then_some(()).ok_or_else(|| Wrong::new(images, cause))?;
        }
        if let Some(memory) = self.memory.as_ref().filter(|mib| !MEMORY.contains(mib.get_ref())) {
            let cause = "memory: give a number of MiB from 32 to 1048576";
            return Err(Wrong::new(memory, cause));
        }
        let images = self.images.map(Spanned::into_inner);
        let takes = takes(self.waits, self.file, self.early)?;
        let rehearsal = match (self.rehearsal, takes) {
            (Some(code), _) => Rehearsal::Program(kept(code)),
            (None, Takes::File { .. }) => Rehearsal::Nothing,
            // It has started, and is told that there is none.
            (None, Takes::Waiting { .. }) => Rehearsal::Program(""),
        };
        Ok(Interpreter {
            takes,
            rehearsal,
            images: kept(images.unwrap_or_else(|| format!("{name}-*-base-*.qcow2"))),
            name: kept(name),
            aliases: all_kept(self.aliases.into_iter().map(Spanned::into_inner)),
            memory_mib: self.memory.map_or(USUAL_MEMORY, Spanned::into_inner),
            command: all_kept(self.command.into_inner()),
        })
    }
}

fn takes(
    waits: bool,
    file: Option<Spanned<String>>,
    early: Option<Spanned<Vec<String>>>,
) -> Result<Takes, Wrong> {
    match (waits, file, early) {
        (true, Some(file), _) => {
            Err(Wrong::new(&file, "file: an interpreter that waits finds its code on descriptor 3"))
        }
        (false, _, Some(early)) => {
            Err(Wrong::new(&early, "early: only an interpreter with waits = true starts too early"))
        }
        (true, None, early) => {
            let is_bad = |name: &String| name.is_empty() || name.contains(['=', '\0']);
            if let Some(early) = early.as_ref().filter(|names| names.get_ref().iter().any(is_bad)) {
                return Err(Wrong::new(early, "early: give the beginnings of variables' names"));
            }
            let early = early.map(Spanned::into_inner).unwrap_or_default();
            Ok(Takes::Waiting { early: all_kept(early) })
        }
        (false, file, None) => {
            let is_bad = |name: &str| matches!(name, "" | "." | "..") || name.contains(['/', '\0']);
            if let Some(file) = file.as_ref().filter(|file| is_bad(file.get_ref())) {
                return Err(Wrong::new(file, "file: give the name of a file, as in main.go"));
            }
            let name = file.map_or_else(|| "code".to_owned(), Spanned::into_inner);
            Ok(Takes::File { path: kept(format!("{FOLDER}/{name}")) })
        }
    }
}

/// Names stand in commands, lists, logs and metrics.
fn check_name(name: &Spanned<String>) -> Result<(), Wrong> {
    let text = name.get_ref();
    let good =
        |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "_-.+".contains(char);
    let good = text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= MAX_NAME
        && text.chars().all(good);
    good.then_some(()).ok_or_else(|| {
        let said: String = text.chars().take(MAX_NAME).collect();
        let cause = format!(
            "{said:?} is no language's name: those have 1 to {MAX_NAME} of a-z 0-9 _ - . + and \
             begin with a letter"
        );
        Wrong::new(name, cause)
    })
}

fn check_command(command: &Spanned<Vec<String>>) -> Result<(), Wrong> {
    let words = command.get_ref();
    let cause = if words.first().is_none_or(String::is_empty) {
        "command: give a program and its arguments, as in [\"ruby\"]"
    } else if words.iter().any(|word| word.contains('\0')) {
        "command: no process can be given a NUL"
    } else if words.iter().map(|word| word.len() + 1).sum::<usize>() > MAX_COMMAND {
        "command: it has over 32 KiB"
    } else {
        return Ok(());
    };
    Err(Wrong::new(command, cause))
}

fn kept(text: String) -> &'static str {
    text.leak()
}

fn all_kept(texts: impl IntoIterator<Item = String>) -> &'static [&'static str] {
    texts.into_iter().map(kept).collect::<Vec<_>>().leak()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn what_is_not_said_is_as_usual() {
        let interpreters = parse("[ruby]\ncommand = ['ruby', '-W0']").map_err(|wrong| wrong.cause);
        let ruby = Interpreter {
            name: "ruby",
            aliases: &[],
            images: "ruby-*-base-*.qcow2",
            memory_mib: 128,
            command: &["ruby", "-W0"],
            takes: Takes::File { path: "/run/code" },
            rehearsal: Rehearsal::Nothing,
        };
        assert_eq!(interpreters, Ok(vec![ruby]));
    }

    #[rstest]
    fn all_can_be_said() {
        let text = "
            [go]
            command = ['go', 'run']
            aliases = ['golang', 'c++']
            images = 'go*.qcow2'
            memory = 512
            rehearsal = 'package main; func main() {}'
            file = 'main.go'
            [lua]
            command = ['lua', '-e', 'wait()']
            waits = true
            early = ['LUA_']
        ";
        let interpreters = parse(text).map_err(|wrong| wrong.cause);
        let go = Interpreter {
            name: "go",
            aliases: &["golang", "c++"],
            images: "go*.qcow2",
            memory_mib: 512,
            command: &["go", "run"],
            takes: Takes::File { path: "/run/main.go" },
            rehearsal: Rehearsal::Program("package main; func main() {}"),
        };
        let lua = Interpreter {
            name: "lua",
            aliases: &[],
            images: "lua-*-base-*.qcow2",
            memory_mib: 128,
            command: &["lua", "-e", "wait()"],
            takes: Takes::Waiting { early: &["LUA_"] },
            rehearsal: Rehearsal::Program(""),
        };
        assert_eq!(interpreters, Ok(vec![go, lua]));
    }

    #[rstest]
    #[case::no_table("ruby = 1", 1, "invalid type")]
    #[case::no_toml("[ruby", 1, "unclosed table")]
    #[case::no_command("\n[ruby]", 2, "missing field `command`")]
    #[case::empty_command("[ruby]\ncommand = []", 2, "command: give a program")]
    #[case::empty_program("[ruby]\ncommand = ['']", 2, "command: give a program")]
    #[case::command_as_text("[ruby]\ncommand = 'ruby'", 2, "expected a sequence")]
    #[case::nul("[ruby]\ncommand = [\"a\\u0000\"]", 2, "NUL")]
    #[case::unknown_key("[ruby]\ncommand = ['ruby']\ncolour = 1", 3, "unknown field `colour`")]
    #[case::twice("[ruby]\ncommand = ['ruby']\n[ruby]", 3, "duplicate key")]
    #[case::built_in("[python]\ncommand = ['python2']", 1, "another language is called \"python\"")]
    #[case::its_alias("[sh]\ncommand = ['sh']", 1, "another language is called \"sh\"")]
    #[case::alias("[b]\ncommand = ['b']\naliases = ['py']", 3, "another language is called \"py\"")]
    #[case::own_alias(
        "[b]\ncommand = ['b']\naliases = ['b']",
        3,
        "another language is called \"b\""
    )]
    #[case::upper_case("[Ruby]\ncommand = ['ruby']", 1, "\"Ruby\" is no language's name")]
    #[case::as_an_option("\n[-c]\ncommand = ['c']", 2, "\"-c\" is no language's name")]
    #[case::as_a_pair("['a=1']\ncommand = ['c']", 1, "\"a=1\" is no language's name")]
    #[case::no_name("['']\ncommand = ['c']", 1, "\"\" is no language's name")]
    #[case::path("[ruby]\ncommand = ['ruby']\nimages = '../*.qcow2'", 3, "images: give the name")]
    #[case::memory("[ruby]\ncommand = ['ruby']\nmemory = 31", 3, "memory: give a number of MiB")]
    #[case::negative("[ruby]\ncommand = ['ruby']\nmemory = -1", 3, "expected u32")]
    #[case::folder("[ruby]\ncommand = ['ruby']\nfile = '/etc/passwd'", 3, "file: give the name")]
    #[case::above("[ruby]\ncommand = ['ruby']\nfile = '..'", 3, "file: give the name")]
    #[case::late("[ruby]\ncommand = ['ruby']\nearly = ['RUBY']", 3, "early: only")]
    #[case::both("[ruby]\ncommand = ['r']\nwaits = true\nfile = 'a.rb'", 4, "file: an interpreter")]
    #[case::pair("[ruby]\ncommand = ['r']\nwaits = true\nearly = ['A=']", 4, "early: give")]
    fn what_is_wrong_is_told_with_its_line(
        #[case] text: &str,
        #[case] line: usize,
        #[case] cause: &str,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("languages.toml");
        std::fs::write(&path, text).expect("a file");
        let said = read(&path).expect_err("it is wrong").to_string();
        assert!(said.starts_with(&format!("{}: line {line}: ", path.display())), "{said}");
        assert!(said.contains(cause), "{said}");
    }

    /// With the NUL behind each word, as a process is given them.
    #[rstest]
    #[case(0, true)]
    #[case(1, false)]
    fn a_command_has_32_kib_at_most(#[case] more: usize, #[case] good: bool) {
        let word = "x".repeat(MAX_COMMAND - "ruby\0\0".len() + more);
        let text = format!("[ruby]\ncommand = ['ruby', '{word}']");
        assert_eq!(parse(&text).is_ok(), good);
    }

    #[rstest]
    #[case(0, true)]
    #[case(1, false)]
    fn a_name_has_32_characters_at_most(#[case] more: usize, #[case] good: bool) {
        let text = format!("[{}]\ncommand = ['ruby']", "r".repeat(MAX_NAME + more));
        assert_eq!(parse(&text).is_ok(), good);
    }

    #[rstest]
    #[case(31, false)]
    #[case(32, true)]
    #[case(1 << 20, true)]
    #[case((1 << 20) + 1, false)]
    fn a_guest_s_memory_has_its_bounds(#[case] mib: u32, #[case] good: bool) {
        let text = format!("[ruby]\ncommand = ['ruby']\nmemory = {mib}");
        assert_eq!(parse(&text).is_ok(), good);
    }

    #[rstest]
    #[case(0, true)]
    #[case(1, false)]
    fn a_file_has_1_mib_at_most(#[case] more: usize, #[case] good: bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("languages.toml");
        std::fs::write(&path, "#".repeat((1 << 20) + more)).expect("a file");
        assert_eq!(read(&path).is_ok(), good);
    }

    #[rstest]
    fn a_file_that_is_not_there_or_too_long_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("languages.toml");
        let said = || read(&path).expect_err("no file").to_string();
        assert!(said().starts_with(&format!("{}: No such file", path.display())), "{}", said());
        std::fs::write(&path, "#".repeat(2 << 20)).expect("a file");
        assert!(said().contains("over 1048576 bytes"), "{}", said());
    }
}
