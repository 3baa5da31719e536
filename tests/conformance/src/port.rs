//! A port, and how its shim is started.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, geteuid};
use serde::{Deserialize, Serialize};

use super::answers::ERRORS;
use super::case::{Case, Mount};
use crate::faults::fuse;
use crate::processes::runs;
use crate::shim::Answer;

/// How long a port may take; far more than any needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A port, and how it is driven.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// How long it may take to answer, and to come to a state that a case waits for.
    pub patience: Duration,
    /// The command of its shim, whose files have absolute paths: it runs in the cases' folders.
    pub argv: Vec<String>,
    /// What stands in its `shim.toml`.
    pub config: ShimConfig,
}

/// A port's `shim.toml`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShimConfig {
    /// The port's own name of an error, by the contract's.
    errors: BTreeMap<String, String>,
    /// The program of a process that the shim starts and that is the pool itself.
    process: Option<String>,
    /// Cases that the port doesn't pass, each with the reason.
    pub disabled: BTreeMap<String, String>,
}

/// Why a port can't be judged at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// Its command can't be split into words.
    #[error("the command of the shim can't be understood: {0:?} has a quote that isn't closed")]
    Quotes(String),
    /// Its command has no word.
    #[error("the command of the shim is empty")]
    NoCommand,
    /// Its `shim.toml` can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its `shim.toml` isn't one.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what is expected there.
        source: Box<toml::de::Error>,
    },
    /// Its `shim.toml` maps an error that the contract hasn't, or two to one.
    #[error("{}, [errors]: {mistake}", path.display())]
    Errors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        mistake: String,
    },
}

impl ShimConfig {
    /// Reads a `shim.toml`.
    ///
    /// # Errors
    ///
    /// It can't be read, isn't TOML, or has what no `shim.toml` has.
    pub fn read(path: &Path) -> Result<Self, PortError> {
        let path_of = || path.to_owned();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| PortError::Unreadable { path: path_of(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| PortError::Syntax { path: path_of(), source: Box::new(source) })?;
        config.check_errors().map_err(|mistake| PortError::Errors { path: path_of(), mistake })?;
        Ok(config)
    }

    /// Each error of the contract has a name of its own.
    fn check_errors(&self) -> Result<(), String> {
        let mut contracts = BTreeMap::new();
        for (contract, port) in &self.errors {
            if !ERRORS.contains(&contract.as_str()) {
                return Err(format!("{contract} is none of the contract's: {}", ERRORS.join(", ")));
            }
            if let Some(other) = contracts.insert(port, contract) {
                return Err(format!("{port} can't be both {other} and {contract}"));
            }
        }
        Ok(())
    }

    /// Lies beside the shim: the last word of the command that is a file.
    fn beside(argv: &[String]) -> Option<PathBuf> {
        let shim =
            argv.iter().rev().find(|word| word.contains('/') && Path::new(word).is_file())?;
        Some(Path::new(shim).with_file_name("shim.toml")).filter(|config| config.is_file())
    }
}

impl Port {
    /// A port by the command of its shim, as it is typed, and by its `shim.toml`, which is looked
    /// for beside the shim if it isn't named.
    ///
    /// # Errors
    ///
    /// The command or the `shim.toml` can't be understood.
    pub fn of_command(command: &str, config: Option<&Path>) -> Result<Self, PortError> {
        let words = shlex::split(command).ok_or_else(|| PortError::Quotes(command.to_owned()))?;
        let mut words = words.into_iter();
        let program = words.next().ok_or(PortError::NoCommand)?;
        let program = if program.contains('/') { absolute_file(&program) } else { program };
        let mut argv = vec![program];
        argv.extend(words.map(|word| absolute_file(&word)));
        let config = match config {
            Some(path) => Some(path.to_owned()),
            None => ShimConfig::beside(&argv),
        };
        let config =
            config.map_or_else(|| Ok(ShimConfig::default()), |path| ShimConfig::read(&path))?;
        Ok(Self { patience: PATIENCE, argv, config })
    }

    /// How its shim is started for a case.
    pub(crate) fn command(&self, case: &Case, folder: &Path) -> Vec<String> {
        let mut argv = self.argv.clone();
        if case.wants_no_powers() {
            let without_powers = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
            argv.splice(0..0, without_powers.map(str::to_owned));
        }
        if let Some(umask) = case.umask {
            let script = format!("umask {umask:04o}; exec \"$@\"");
            argv.splice(0..0, ["sh", "-ec", &script, "sh"].map(str::to_owned));
        }
        if case.mounts_anything() {
            let mut script = "cd \"$0\"\n".to_owned();
            for (point, Mount { kib, read_only }) in &case.mounts {
                let access = if *read_only { "ro" } else { "rw" };
                let options = format!("size={kib}k,mode=700,{access}");
                let _ = writeln!(script, "mount -t tmpfs -o {options} tmpfs './{point}'");
            }
            for point in &case.passed_on {
                script.push_str(&fuse::mount(point));
            }
            script.push_str("exec \"$@\"");
            let folder = folder.to_string_lossy();
            let unshare = ["unshare", "--map-root-user", "--mount", "sh", "-ec", &script, &folder];
            argv.splice(0..0, unshare.map(str::to_owned));
        }
        argv
    }

    /// The directory that root can't pass without its powers, on the way to the shim or to the
    /// case's folder, if the case takes them away.
    pub(crate) fn barrier(&self, case: &Case, folder: &Path) -> Option<PathBuf> {
        if !geteuid().is_root() || !case.wants_no_powers() && !case.mounts_anything() {
            return None;
        }
        let words = self.argv.iter().map(Path::new).filter(|word| word.is_absolute());
        words.chain([folder]).find_map(closed_above)
    }

    /// Gives an error the contract's name.
    pub(crate) fn translate(&self, answer: Answer) -> Answer {
        answer.map_err(|(name, message)| {
            let ours = self.config.errors.iter().find(|(_, port)| **port == name);
            (ours.map_or(name, |(contract, _)| contract.clone()), message)
        })
    }

    /// Whether a process that the shim started is the pool, and no aid of it.
    pub(crate) fn is_pool(&self, pid: Pid) -> bool {
        self.config.process.as_ref().is_some_and(|program| runs(pid, program))
    }
}

/// The first directory above a path that by its mode root can't pass if it has no powers.
fn closed_above(path: &Path) -> Option<PathBuf> {
    let path = path.canonicalize().ok()?;
    let is_closed = |directory: &&Path| {
        directory.metadata().is_ok_and(|found| {
            let bit = match (found.uid(), found.gid()) {
                (0, _) => 0o100,
                (_, 0) => 0o010,
                _ => 0o001,
            };
            found.mode() & bit == 0
        })
    };
    let above: Vec<_> = path.ancestors().skip(1).collect();
    above.into_iter().rev().find(is_closed).map(Path::to_owned)
}

/// A word of a command; the relative path of a file made absolute, since shims run elsewhere.
fn absolute_file(word: &str) -> String {
    let path = Path::new(word);
    match std::path::absolute(path) {
        Ok(absolute) if path.is_file() => absolute.display().to_string(),
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_as_a_shell_splits_it() {
        let port = Port::of_command(r"sh -c 'a  b' it\'s", None).expect("a command");
        assert_eq!(port.argv, ["sh", "-c", "a  b", "it's"]);
        assert!(matches!(Port::of_command(" ", None), Err(PortError::NoCommand)));
        assert!(matches!(Port::of_command("a 'b", None), Err(PortError::Quotes(_))));
    }

    /// Tests run in the folder of their package.
    #[test]
    fn files_of_a_command_are_found_from_elsewhere() {
        let port = Port::of_command("src ./src/port.rs Cargo.toml nothing.py", None);
        let argv = port.expect("a command").argv;
        assert_eq!((&*argv[0], &*argv[3]), ("src", "nothing.py"));
        assert!(Path::new(&argv[1]).is_absolute() && argv[2].ends_with("/Cargo.toml"), "{argv:?}");
    }
}
