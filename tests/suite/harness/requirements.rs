//! What tests need of the machine, as data.
//!
//! Each need is probed once in a process, and only where a test asks for it. An unmet need makes
//! a test *ignored*; named in `OVERLAY_POOL_REQUIRE` it makes it *fail*.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use overlay_pool::vm::{Manifest, VmSettings, kvm};

use overlay_pool_conformance::{host, isolation};

use super::faults::{clock, memory, strace};
use super::{delegated, node, python, registry, vms};

/// Something that a machine has or hasn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// `qemu-img`.
    QemuImg,
    /// `qemu-io`.
    QemuIo,
    /// `qemu-storage-daemon`.
    StorageDaemon,
    /// `python3`.
    Python,
    /// `curl`, of a version that can speak JSON (7.82).
    Curl,
    /// `script`, which gives a program a terminal.
    Script,
    /// The example `client`, which is built with the tests but doesn't come with an archive of them.
    Examples,
    /// `setpriv`, which takes root's powers from a shim.
    Setpriv,
    /// The right to make a mount namespace and to mount tmpfs in it.
    MountNamespace,
    /// The right to make a PID namespace with a `/proc` of its own.
    PidNamespace,
    /// An effective user id of 0, and the right to give files to other users.
    Root,
    /// KVM that can run a guest.
    Kvm,
    /// QEMU itself.
    QemuSystem,
    /// Kernel, initramfs and base images, as `fixtures/provision.sh` makes them.
    GuestImages,
    /// Something to run guests on: usable KVM, or TCG where it was asked for.
    Accelerator,
    /// `cargo`, and all crates that this one is built of, on this machine.
    Crates,
    /// `strace`, and the right to trace a child.
    Strace,
    /// `bindfs`, and the right to mount it in a mount namespace.
    Fuse,
    /// `faketime`, which moves the wall clock of a process.
    Faketime,
    /// The right to make a memory cgroup.
    MemoryCgroup,
    /// The right to make a cgroup of version 2 that limits memory, processors and processes.
    DelegatedCgroup,
    /// A folder on another filesystem than the tests' folders.
    SecondFilesystem,
    /// `bash`, built with what completes words: Nix' builders have one without.
    Bash,
    /// `systemd-analyze` and `systemd-socket-activate`; systemd need not run.
    Systemd,
    /// `schemathesis`, which asks a server all that its `OpenAPI` document allows and more.
    Schemathesis,
    /// `prometheus_client`, the parser of Prometheus' text format in Python.
    PrometheusClient,
    /// `chromium`, without a screen.
    Chromium,
    /// What builds and checks the client in Python: `pip`, `flit_core` and `mypy`.
    PythonBuild,
    /// `openapi-python-client`, which makes a client in Python of an `OpenAPI` document.
    OpenapiPythonClient,
    /// `node`, of a version that has `??=` (15).
    Node,
    /// `openapi-typescript`, which makes types of one, and `tsc`.
    OpenapiTypescript,
    /// `promtool`, which checks what Prometheus is told.
    Promtool,
    /// A program with the feature `images`, and `docker-registry`.
    Registry,
    /// The program built with the feature `csi`.
    Csi,
    /// `kubectl`, which renders what a cluster is given.
    Kubectl,
    /// `kubernetes-validate`, which checks that.
    KubernetesValidate,
    /// `openssl`, which makes certificates.
    Openssl,
}

/// A need that this machine doesn't meet, and why.
pub(crate) struct Unmet {
    pub(crate) need: Need,
    pub(crate) reason: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}: {}", self.need.name(), self.reason)
    }
}

/// Where it lies; on nearly every machine it is a tmpfs that everybody may write to.
pub(crate) const SECOND_FILESYSTEM: &str = "/dev/shm";
/// A user who is neither root nor us; where root is there, files can be given to them.
pub(crate) const SOMEBODY: u32 = 65534;
const QEMU: &str = "qemu-system-x86_64";
const PROMETHEUS_CLIENT: &str = "\
import importlib.metadata, prometheus_client.parser
print('prometheus_client', importlib.metadata.version('prometheus_client'))";
const PYTHON_BUILD: &str = "\
import flit_core, mypy.version, pip
print('flit_core', flit_core.__version__, 'mypy', mypy.version.__version__, 'pip', pip.__version__)";
/// How a program comes that is unpacked and not installed.
const UNPACKED: &str = "it by fixtures/provision.sh";
const REQUIRE: &str = "OVERLAY_POOL_REQUIRE";

/// What the tests of a file need that declares nothing of this name.
pub(crate) const NEEDS: &[Need] = &[];

impl Need {
    pub(crate) const ALL: [Self; 37] = [
        Self::QemuImg,
        Self::QemuIo,
        Self::StorageDaemon,
        Self::Python,
        Self::Curl,
        Self::Script,
        Self::Examples,
        Self::Setpriv,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::Root,
        Self::Kvm,
        Self::QemuSystem,
        Self::GuestImages,
        Self::Accelerator,
        Self::Crates,
        Self::Strace,
        Self::Fuse,
        Self::Faketime,
        Self::MemoryCgroup,
        Self::DelegatedCgroup,
        Self::SecondFilesystem,
        Self::Bash,
        Self::Systemd,
        Self::Schemathesis,
        Self::PrometheusClient,
        Self::Chromium,
        Self::PythonBuild,
        Self::OpenapiPythonClient,
        Self::Node,
        Self::OpenapiTypescript,
        Self::Promtool,
        Self::Registry,
        Self::Csi,
        Self::Kubectl,
        Self::KubernetesValidate,
        Self::Openssl,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-img",
            Self::QemuIo => "qemu-io",
            Self::StorageDaemon => "qemu-storage-daemon",
            Self::Python => "python3",
            Self::Curl => "curl",
            Self::Script => "script",
            Self::Examples => "examples",
            Self::Setpriv => "setpriv",
            Self::MountNamespace => "mount-namespace",
            Self::PidNamespace => "pid-namespace",
            Self::Root => "root",
            Self::Kvm => "kvm",
            Self::QemuSystem => "qemu-system",
            Self::GuestImages => "guest-images",
            Self::Accelerator => "accelerator",
            Self::Crates => "crates",
            Self::Strace => "strace",
            Self::Fuse => "fuse",
            Self::Faketime => "faketime",
            Self::MemoryCgroup => "memory-cgroup",
            Self::DelegatedCgroup => "delegated-cgroup",
            Self::SecondFilesystem => "second-filesystem",
            Self::Bash => "bash",
            Self::Systemd => "systemd",
            Self::Schemathesis => "schemathesis",
            Self::PrometheusClient => "prometheus-client",
            Self::Chromium => "chromium",
            Self::PythonBuild => "python-build",
            Self::OpenapiPythonClient => "openapi-python-client",
            Self::Node => "node",
            Self::OpenapiTypescript => "openapi-typescript",
            Self::Promtool => "promtool",
            Self::Registry => "registry",
            Self::Csi => "csi",
            Self::Kubectl => "kubectl",
            Self::KubernetesValidate => "kubernetes-validate",
            Self::Openssl => "openssl",
        }
    }

    /// What was found, or why it isn't there.
    pub(crate) fn probe(self) -> &'static Result<String, String> {
        static FOUND: [OnceLock<Result<String, String>>; Need::ALL.len()] =
            [const { OnceLock::new() }; Need::ALL.len()];
        FOUND[self as usize].get_or_init(|| match self {
            Self::QemuImg => of_judge(host::Need::QemuImg),
            Self::QemuIo => of_judge(host::Need::QemuIo),
            Self::Setpriv => of_judge(host::Need::Setpriv),
            Self::MountNamespace => of_judge(host::Need::MountNamespace),
            Self::Root => of_judge(host::Need::Root),
            Self::Fuse => of_judge(host::Need::Fuse),
            Self::PidNamespace => {
                isolation::probe().map(|command| command.join(" ")).map_err(str::to_owned)
            }
            Self::StorageDaemon => version(self.name(), "qemu-utils"),
            Self::Curl => curl(),
            Self::Script => version(self.name(), "bsdutils or util-linux"),
            Self::Examples => examples(),
            Self::Kvm => kvm(),
            Self::QemuSystem => version(QEMU, "qemu-system-x86"),
            Self::GuestImages => guest_images(),
            Self::Accelerator => accelerator(),
            Self::Crates => crates().map(|crates| format!("{} in the library", crates.len())),
            Self::Strace => strace::probe(),
            Self::Faketime => clock::probe(),
            Self::MemoryCgroup => memory::probe(),
            Self::DelegatedCgroup => delegated::probe(),
            Self::SecondFilesystem => second_filesystem(),
            Self::Bash => bash(),
            Self::Chromium => version(self.name(), self.name()),
            Self::Systemd => version("systemd-socket-activate", "systemd")
                .and_then(|_| version("systemd-analyze", "systemd")),
            Self::Python | Self::Schemathesis | Self::OpenapiPythonClient => {
                python::probe(self.name(), &["--version"])
            }
            Self::PythonBuild => python::probe("python3", &["-c", PYTHON_BUILD]),
            Self::Node => said(self.name(), &["--version"], "nodejs"),
            Self::OpenapiTypescript => {
                node::probe(self.name()).and_then(|found| node::probe("tsc").map(|_| found))
            }
            Self::PrometheusClient => python::probe("python3", &["-c", PROMETHEUS_CLIENT]),
            Self::Promtool => version(&promtool().display().to_string(), UNPACKED),
            Self::Csi => built_with("csi", cfg!(feature = "csi")),
            Self::Kubectl => {
                said(&kubectl().display().to_string(), &["version", "--client"], UNPACKED)
            }
            Self::Registry => built_with("images", cfg!(feature = "images"))
                .and_then(|_| version(&registry::program().display().to_string(), UNPACKED)),
            Self::KubernetesValidate => python::probe(self.name(), &["--version"]),
            Self::Openssl => said(self.name(), &["version"], "openssl"),
        })
    }
}

/// Those that cases have are known to the judge, with what to do.
fn of_judge(need: host::Need) -> Result<String, String> {
    need.probe().clone().map_err(|why| format!("{why}; {}", need.advice()))
}

impl From<host::Need> for Need {
    fn from(need: host::Need) -> Self {
        match need {
            host::Need::QemuImg => Self::QemuImg,
            host::Need::QemuIo => Self::QemuIo,
            host::Need::Setpriv => Self::Setpriv,
            host::Need::MountNamespace => Self::MountNamespace,
            host::Need::Fuse => Self::Fuse,
            host::Need::Root => Self::Root,
        }
    }
}

/// The needs of `needs` that this machine doesn't meet.
pub(crate) fn unmet(needs: &[Need]) -> impl Iterator<Item = Unmet> + '_ {
    needs.iter().filter_map(|need| {
        let reason = need.probe().as_ref().err()?.clone();
        Some(Unmet { need: *need, reason })
    })
}

/// Whether a test with these needs shall be skipped rather than fail.
pub(crate) fn skips(needs: &[Need]) -> bool {
    let required = required().unwrap_or_default();
    let mut unmet = unmet(needs).peekable();
    unmet.peek().is_some() && unmet.all(|unmet| !required.contains(&unmet.need))
}

/// A name in `OVERLAY_POOL_REQUIRE` that no need has is an error, not an empty demand.
pub(crate) fn check_required_names() -> Result<(), String> {
    required().map(drop)
}

pub(crate) fn required() -> Result<Vec<Need>, String> {
    let names = std::env::var(REQUIRE).unwrap_or_default();
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(need_named).collect()
}

fn need_named(name: &str) -> Result<Need, String> {
    Need::ALL.into_iter().find(|need| need.name() == name).ok_or_else(|| {
        let known: Vec<_> = Need::ALL.iter().map(|need| need.name()).collect();
        format!("{REQUIRE}: {name:?} is not a need; known are {}", known.join(", "))
    })
}

fn version(program: &str, package: &str) -> Result<String, String> {
    said(program, &["--version"], package)
}

fn said(program: &str, args: &[&str], package: &str) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}; install {package}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(format!("{program} {} failed: {}", args.join(" "), output.status)),
    }
}

fn built_with(feature: &str, is_there: bool) -> Result<String, String> {
    if is_there {
        Ok(format!("built with the feature {feature}"))
    } else {
        Err(format!("built without it: cargo nextest run --features {feature}"))
    }
}

/// The one that `fixtures/provision.sh` unpacks, or else that on `PATH`.
pub(crate) fn promtool() -> PathBuf {
    let unpacked = python::build_directory().join("prometheus/promtool");
    if unpacked.exists() { unpacked } else { "promtool".into() }
}

/// The one that `fixtures/provision.sh` unpacks, or else that on `PATH`.
pub(crate) fn kubectl() -> PathBuf {
    let unpacked = python::build_directory().join("kubernetes/kubectl");
    if unpacked.exists() { unpacked } else { "kubectl".into() }
}

fn curl() -> Result<String, String> {
    let found = version("curl", "curl")?;
    let help = Command::new("curl").args(["--help", "all"]).output();
    let help = help.map_err(|error| format!("curl --help: {error}"))?;
    if String::from_utf8_lossy(&help.stdout).contains("--json") {
        Ok(found)
    } else {
        Err(format!("{found} has no --json; 7.82 has"))
    }
}

/// An example of this build, beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap_or_default();
    tests.ancestors().nth(2).unwrap_or(&tests).join("examples").join(name)
}

fn examples() -> Result<String, String> {
    let client = example("client");
    if client.is_file() {
        Ok(client.display().to_string())
    } else {
        Err(format!("{}: not there; build it with cargo build --examples", client.display()))
    }
}

fn second_filesystem() -> Result<String, String> {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    let there = tempfile::tempdir_in(SECOND_FILESYSTEM).map_err(|error| error.to_string())?;
    match (device(there.path()), device(Path::new(env!("CARGO_TARGET_TMPDIR")))) {
        (Ok(one), Ok(other)) if one != other => Ok(SECOND_FILESYSTEM.to_owned()),
        other => Err(format!("{SECOND_FILESYSTEM} is no other filesystem: {other:?}")),
    }
}

/// The crates that the library without features is built of, itself among them.
pub(crate) fn crates() -> Result<BTreeSet<String>, String> {
    let output = Command::new("cargo")
        .args(["tree", "--offline", "--locked", "--package=overlay-pool", "--no-default-features"])
        .args(["--edges=normal", "--prefix=none", "--no-dedupe", "--format={p}", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

fn guest_images() -> Result<String, String> {
    let dir = vms::images();
    let manifest = Manifest::read(&dir)
        .map_err(|error| format!("{error}; build them with fixtures/provision.sh"))?;
    Ok(format!("{} (recipe {})", dir.display(), manifest.recipe))
}

fn accelerator() -> Result<String, String> {
    let wanted = VmSettings::from_env().map_err(|error| error.to_string())?.accelerator;
    wanted.resolve().map(|found| found.to_string()).map_err(|error| error.to_string())
}

fn kvm() -> Result<String, String> {
    let kvm = kvm::probe();
    if kvm.is_usable() { Ok(kvm.to_string()) } else { Err(kvm.to_string()) }
}

fn bash() -> Result<String, String> {
    let found = version("bash", "bash")?;
    let complete = Command::new("bash").args(["-c", "type complete"]).output();
    let complete = complete.map_err(|error| format!("bash: {error}"))?;
    if complete.status.success() {
        Ok(found)
    } else {
        Err(format!("{found} has no `complete`; by Nix bashInteractive has"))
    }
}
