//! The ports that are judged: our pool on each creator, the plain port, the server, and the one
//! that `OVERLAY_POOL_SHIM` names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use rustix::process::Pid;
use serde::Deserialize;

use super::answers::ERRORS;
use super::case::{Case, Mount};
use crate::harness::faults::fuse;
use crate::harness::processes::runs;
use crate::harness::python;
use crate::harness::requirements::Need;
use crate::harness::shim::Answer;

const SHIM: &str = "OVERLAY_POOL_SHIM";
const SHIM_CONFIG: &str = "OVERLAY_POOL_SHIM_CONFIG";
/// The profile of nextest that judges a port.
const PROFILE: &str = "port";

/// How long a port may take; far more than any needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port, and how it is driven.
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) needs: &'static [Need],
    /// How long it may take to answer, and to come to a state that a case waits for.
    pub(crate) patience: Duration,
    argv: Vec<String>,
    pub(crate) config: ShimConfig,
}

/// A port's `shim.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ShimConfig {
    /// The port's own name of an error, by the contract's.
    errors: BTreeMap<String, String>,
    /// The program of a process that the shim starts and that is the pool itself.
    process: Option<String>,
    /// Cases that the port doesn't pass, each with the reason.
    pub(crate) disabled: BTreeMap<String, String>,
}

impl ShimConfig {
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
        let config: Self =
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        config
            .check_errors()
            .map_err(|mistake| format!("{}, [errors]: {mistake}", path.display()))?;
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
    /// How its shim is started for a case.
    pub(crate) fn command(&self, case: &Case, folder: &Path) -> Vec<String> {
        let mut argv = self.argv.clone();
        let is_root = rustix::process::geteuid().is_root();
        if case.unprivileged && (is_root || case.mounts_anything()) {
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

    fn ours(creator: CreatorKind) -> Self {
        let argv = [&program(), "shim", "--creator", creator.as_str()].map(str::to_owned).into();
        Self {
            name: creator.as_str().to_owned(),
            needs: match creator {
                CreatorKind::StorageDaemon => &[Need::StorageDaemon],
                _ => &[],
            },
            argv,
            patience: PATIENCE,
            config: ShimConfig::default(),
        }
    }

    /// The plain port in Python, sound or with one rule broken.
    pub(crate) fn python(broken: Option<&str>) -> Result<Self, String> {
        let folder = repository().join("fixtures/ports/python");
        let mut argv = Vec::from(python_shim(&folder));
        if let Some(name) = broken {
            argv.extend(["--break".to_owned(), name.to_owned()]);
        }
        let config = ShimConfig::read(&folder.join("shim.toml"))?;
        // What is broken on purpose is waited for in vain.
        let patience = broken.map_or(PATIENCE, |_| Duration::from_secs(3));
        Ok(Self { name: "python".to_owned(), needs: &[Need::Python], patience, argv, config })
    }

    /// The server, as a client of another language meets it.
    fn server() -> Result<Self, String> {
        let folder = repository().join("fixtures/ports/http");
        let mut argv = Vec::from(python_shim(&folder));
        argv.push(program());
        Ok(Self {
            name: "server".to_owned(),
            needs: &[Need::Python],
            patience: PATIENCE,
            argv,
            config: ShimConfig::read(&folder.join("shim.toml"))?,
        })
    }

    /// The port that the environment names.
    pub(crate) fn named() -> Result<Option<Self>, String> {
        let command = std::env::var(SHIM).unwrap_or_default();
        if command.trim().is_empty() {
            return match std::env::var("NEXTEST_PROFILE") {
                Ok(profile) if profile == PROFILE => {
                    Err(format!("no port to judge: set {SHIM} to the command of its shim"))
                }
                _ => Ok(None),
            };
        }
        let argv: Vec<String> = command.split_whitespace().map(absolute_file).collect();
        let config = match std::env::var_os(SHIM_CONFIG) {
            Some(path) => Some(PathBuf::from(path)),
            None => ShimConfig::beside(&argv),
        };
        let config =
            config.map_or_else(|| Ok(ShimConfig::default()), |path| ShimConfig::read(&path))?;
        let name = "port".to_owned();
        Ok(Some(Self { name, needs: &[], patience: PATIENCE, argv, config }))
    }

    /// Those of this repository.
    pub(crate) fn of_repository() -> Result<Vec<Self>, String> {
        let mut ports: Vec<_> = CreatorKind::ALL.map(Self::ours).into();
        ports.extend([Self::python(None)?, Self::server()?]);
        Ok(ports)
    }
}

/// Our own program, also where the tests run from an archive.
pub(crate) fn program() -> String {
    std::env::var("NEXTEST_BIN_EXE_overlay-pool")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_overlay-pool").to_owned())
}

/// The command of the shim in Python that lies in a folder.
fn python_shim(folder: &Path) -> [String; 3] {
    let [interpreter, shim] = [python::program("python3"), folder.join("shim.py")]
        .map(|path| path.to_string_lossy().into_owned());
    [interpreter, "-B".to_owned(), shim]
}

/// A word of a command; a relative path of a file made absolute, since shims run elsewhere.
fn absolute_file(word: &str) -> String {
    let path = Path::new(word);
    match std::path::absolute(path) {
        Ok(absolute) if word.contains('/') && path.is_file() => absolute.display().to_string(),
        _ => word.to_owned(),
    }
}

/// The repository, also where the tests run from an archive.
pub(crate) fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
