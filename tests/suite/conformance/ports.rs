//! The ports that are judged: our pool on each creator, the plain port, the server, and the one
//! that `OVERLAY_POOL_SHIM` names.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool_conformance::port::{PATIENCE, Port as Judged, ShimConfig};
use overlay_pool_conformance::shim::Hello;
use overlay_pool_conformance::verdict;

use crate::harness::artefacts::log_all;
use crate::harness::python;
use crate::harness::requirements::Need;
use crate::harness::scratch::{ON_DISK, scratch};

const SHIM: &str = "OVERLAY_POOL_SHIM";
const SHIM_CONFIG: &str = "OVERLAY_POOL_SHIM_CONFIG";
/// The profile of nextest that judges a port.
const PROFILE: &str = "port";

/// A port, what it is called, and what it needs.
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) needs: &'static [Need],
    pub(crate) judged: Judged,
    /// What it says of itself, if that was asked for.
    pub(crate) hello: Hello,
}

impl Deref for Port {
    type Target = Judged;

    fn deref(&self) -> &Judged {
        &self.judged
    }
}

impl Port {
    fn new(name: &str, needs: &'static [Need], argv: Vec<String>, config: ShimConfig) -> Self {
        let judged = Judged { patience: PATIENCE, argv, config };
        Self { name: name.to_owned(), needs, judged, hello: Hello::default() }
    }

    fn ours(creator: CreatorKind) -> Self {
        let shim = ["shim", "--creator", creator.as_str()].map(str::to_owned);
        let argv = ["env".to_owned(), log_all(), program()].into_iter().chain(shim).collect();
        let needs: &[Need] = match creator {
            CreatorKind::StorageDaemon => &[Need::StorageDaemon],
            CreatorKind::QemuImg => &[Need::QemuImg],
            CreatorKind::Native => &[],
        };
        Self::new(creator.as_str(), needs, argv, ShimConfig::default())
    }

    /// The plain port in Python, sound or with one rule broken.
    pub(crate) fn python(broken: Option<&str>) -> Result<Self, String> {
        let folder = repository().join("fixtures/ports/python");
        let mut argv = python_shim(&folder);
        if let Some(name) = broken {
            argv.extend(["--break".to_owned(), name.to_owned()]);
        }
        let config = config(&folder.join("shim.toml"))?;
        Ok(Self::new("python", &[Need::Python, Need::QemuImg], argv, config))
    }

    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.judged.patience = patience;
        self
    }

    /// The server, as a client of another language meets it.
    fn server() -> Result<Self, String> {
        let folder = repository().join("fixtures/ports/http");
        let mut argv = vec!["env".to_owned(), log_all()];
        argv.extend(python_shim(&folder));
        argv.push(program());
        Ok(Self::new("server", &[Need::Python], argv, config(&folder.join("shim.toml"))?))
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
        let config = std::env::var_os(SHIM_CONFIG).map(PathBuf::from);
        let judged = Judged::of_command(&command, config.as_deref());
        let judged = judged.map_err(|error| format!("{SHIM}: {error}"))?;
        // One that can't be asked is told of by each of its cases.
        let hello = verdict::hello(&judged, &scratch()).unwrap_or_default();
        Ok(Some(Self { name: "port".to_owned(), needs: &[], judged, hello }))
    }

    /// Those of this repository.
    pub(crate) fn of_repository() -> Result<Vec<Self>, String> {
        let mut ports: Vec<_> = CreatorKind::ALL.map(Self::ours).into();
        ports.extend([Self::python(None)?, Self::server()?]);
        Ok(ports)
    }
}

fn config(path: &Path) -> Result<ShimConfig, String> {
    ShimConfig::read(path).map_err(|error| error.to_string())
}

/// Our own program, also where the tests run from an archive.
pub(crate) fn program() -> String {
    std::env::var("NEXTEST_BIN_EXE_overlay-pool")
        .unwrap_or_else(|_| env!("CARGO_BIN_EXE_overlay-pool").to_owned())
}

/// The command of the shim in Python that lies in a folder. It comes up for each case: with Python's
/// own modules alone, and compiled once.
fn python_shim(folder: &Path) -> Vec<String> {
    let compiled = format!("pycache_prefix={ON_DISK}/python");
    let [interpreter, shim] = [python::program("python3"), folder.join("shim.py")]
        .map(|path| path.to_string_lossy().into_owned());
    vec![interpreter, "-E".to_owned(), "-S".to_owned(), "-X".to_owned(), compiled, shim]
}

/// The repository, also where the tests run from an archive.
pub(crate) fn repository() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}
