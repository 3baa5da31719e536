//! A case as its file has it. The JSON schema is made from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// One case of the conformance suite. All paths are relative to the case's own folder.
///
/// After the steps of every case the pool is stopped and the shim asked to exit. Then no pool
/// directory may be left, no process, every acquired overlay must still be there, and no base
/// image may have changed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What the case shows, in one sentence.
    pub(crate) about: String,
    /// The rules of CONTRACT.md that it proves.
    #[schemars(length(min = 1))]
    pub(crate) rules: Vec<String>,
    /// What the pool is told.
    #[serde(default)]
    pub(crate) config: Config,
    /// Base images that are there from the beginning.
    #[serde(default)]
    pub(crate) images: BTreeMap<String, Image>,
    /// Filesystems of their own, in a mount namespace of the shim.
    #[serde(default)]
    pub(crate) mounts: BTreeMap<String, Mount>,
    /// Directories over which a filesystem in user space lies, in a mount namespace of the shim. It
    /// passes everything on to the directory below, but for what such filesystems lack: unnamed
    /// files and `RENAME_NOREPLACE`.
    #[serde(default)]
    pub(crate) passed_on: Vec<String>,
    /// The shim has none of root's powers: the modes of files hold for it.
    #[serde(default)]
    pub(crate) unprivileged: bool,
    /// What is done and expected, in this order.
    #[schemars(with = "Vec<Step>", length(min = 1))]
    pub(crate) steps: Vec<Spanned<Step>>,
    /// The text that it was read from.
    #[serde(skip)]
    text: String,
}

impl Case {
    pub(crate) fn read(text: String) -> Result<Self, toml::de::Error> {
        let case: Self = toml::from_str(&text)?;
        Ok(Self { text, ..case })
    }

    /// A step as it is written.
    pub(crate) fn written(&self, step: &Spanned<Step>) -> &str {
        self.text.get(step.span()).unwrap_or_default()
    }

    /// Whether there is such a step.
    pub(crate) fn has(&self, is_such: impl Fn(&Step) -> bool) -> bool {
        self.steps.iter().any(|step| is_such(step.get_ref()))
    }

    /// Whether the shim gets a mount namespace of its own.
    pub(crate) fn mounts_anything(&self) -> bool {
        let mounts = |step: &Step| matches!(step, Step::Mount { .. });
        !self.mounts.is_empty() || !self.passed_on.is_empty() || self.has(mounts)
    }
}

/// The pool's configuration. The defaults hold for cases alone, they aren't the contract's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) max_concurrent_vms: i64,
    pub(crate) images_path: String,
    pub(crate) pool_dir: String,
    pub(crate) restock_interval_ms: u64,
    pub(crate) create_timeout_ms: u64,
    pub(crate) shelf_idle_ms: Option<u64>,
    /// The paths are sent as they are written here, and not made absolute.
    pub(crate) relative: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_concurrent_vms: 4,
            images_path: "images".to_owned(),
            pool_dir: "pool".to_owned(),
            restock_interval_ms: 3_600_000, // never while a case looks
            create_timeout_ms: 10_000,
            shelf_idle_ms: None,
            relative: false,
        }
    }
}

/// A base image with a pattern at its start.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Image {
    /// The virtual size in MiB.
    pub(crate) mib: u64,
    pub(crate) format: Format,
}

impl Default for Image {
    fn default() -> Self {
        Self { mib: 16, format: Format::Qcow2 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Qcow2,
    Raw,
}

impl Format {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// A tmpfs.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    /// How much it holds; a file takes whole units of 4 KiB.
    pub(crate) kib: u64,
    #[serde(default)]
    pub(crate) read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    Pooled,
    OnDemand,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::OnDemand => "on-demand",
        }
    }
}

/// One step. In a path `{pool}` stands for the pool directory and `{ready}` for one file of a
/// ready overlay.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// Makes another pool, that isn't started, with this number of VMs.
    New { max_concurrent_vms: i64, pool_size: i64 },
    /// Starts the pool; without a list it discovers base images.
    Start {
        bases: Option<Vec<String>>,
        #[serde(default)]
        format: Format,
        /// The paths are sent as they are written here.
        #[serde(default)]
        relative: bool,
        /// The names one of which the error must have; empty means success.
        #[serde(default)]
        error: Vec<String>,
    },
    /// Starts the pool and cancels that at once. Where it was done before, the pool is stopped.
    StartCancelled {
        bases: Vec<String>,
        /// It can't be done before.
        #[serde(default)]
        none_done: bool,
    },
    /// Stops the pool; no process of a creator may be left then.
    Stop {},
    /// Acquires one overlay. A target of a failed one must be as it was before.
    Acquire {
        #[serde(default = "base")]
        base: String,
        target: String,
        #[serde(default)]
        format: Format,
        virtual_size_mib: Option<u64>,
        #[serde(default)]
        relative: bool,
        /// Where it must come from.
        source: Option<Source>,
        /// The names one of which the error must have; empty means success.
        #[serde(default)]
        error: Vec<String>,
        /// It may also succeed.
        #[serde(default)]
        may_succeed: bool,
        /// What the error's message must contain.
        #[serde(default)]
        says: Vec<String>,
    },
    /// Acquires at the same time. A `{}` in the target is the number of the acquire; without it
    /// all want one target. What becomes visible must be complete at once.
    AcquireMany {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
        pooled: Option<usize>,
        on_demand: Option<usize>,
        /// How many fail, with `already-exists`.
        #[serde(default)]
        exists: usize,
    },
    /// Acquires one after the other, each when the shelf is full again: all are pooled, and all
    /// is done within that time.
    AcquireSteadily {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
        within_ms: u64,
    },
    /// Acquires at the same time and cancels each at once. Either it was done before, or nothing
    /// is at the target; and the shelves and counters agree with the answers.
    AcquireCancelled {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
        /// One after the other, each while whatever process the shim has started is stopped: then
        /// it wasn't done before.
        #[serde(default)]
        while_stopped: bool,
    },
    /// Acquires at the same time; stops the first process that the shim has started for it, and
    /// kills the shim. Nothing that it has started may outlive it.
    AcquireKilled {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Acquires at the same time, and meanwhile sends a signal to whatever process the shim has
    /// started, again and again. Each acquire succeeds, or fails with `create-failed` and leaves
    /// nothing at its target; all that within `create_timeout` and 5 s.
    AcquireDisturbed {
        signal: Signal,
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Compares the pool's figures; what isn't named isn't compared.
    Stats {
        /// All base images with their ready overlays.
        ready: Option<BTreeMap<String, u64>>,
        pooled: Option<u64>,
        on_demand: Option<u64>,
        failed: Option<u64>,
        discarded: Option<u64>,
        /// Waits until it is so.
        #[serde(default)]
        wait: bool,
    },
    /// Changes the shim's working directory.
    Chdir { path: String },
    /// Goes on with another shim of the port, which is started where it doesn't run.
    Use { shim: String },
    /// Kills the shim. The next step that needs one starts another.
    Kill {},
    /// Asks the shim to exit, as it is.
    Exit {},
    /// Ends the shim's input, as it is.
    HangUp {},
    /// Lets time pass. The shim and what it has started may compute for so long meanwhile.
    Wait { ms: u64, cpu_ms: Option<u64> },

    /// Sends a signal to every process that the shim has started.
    Signal { signal: Signal },
    /// Writes a small file.
    Write { path: String, text: String },
    /// Makes a symbolic link.
    Symlink { path: String, to: String },
    /// Removes a file or a directory with all that it holds.
    Remove { path: String },
    /// Moves a file or a directory.
    Rename { from: String, to: String },
    /// Makes a directory.
    Mkdir { path: String },
    /// Sets the mode of a file or a directory.
    Chmod { path: String, mode: u32 },
    /// Gives a file or a directory to another user.
    Chown { path: String, uid: u32 },
    /// Makes a base image; one that is there is replaced by another file.
    Image {
        path: String,
        #[serde(default)]
        image: Image,
        /// The new file has the modification time of the one before.
        #[serde(default)]
        keeps_time: bool,
    },
    /// Sets another modification time: that many seconds from now.
    Touch {
        path: String,
        #[serde(default = "before_now")]
        seconds: i64,
    },
    /// Makes a base image larger, in place.
    Resize { path: String, mib: u64 },
    /// Cuts a file off.
    Truncate { path: String, len: u64 },
    /// Fills the filesystem that the file lies on.
    Fill { path: String },
    /// Lets the shim and what it started open that many files more; without a number as many as
    /// before.
    Descriptors { free: Option<usize> },
    /// Mounts a tmpfs on a directory, or another file on a file, so that it is busy.
    Mount { path: String },
    /// Undoes that.
    Unmount { path: String },
    /// Has a filesystem of `passed_on` hang for a while; then it goes on.
    Hang { path: String, ms: u64 },
    /// Writes to an overlay as a guest does.
    GuestWrite { overlay: String },

    /// The overlay is sound: the oracle is `qemu-img`.
    Sound {
        overlay: String,
        #[serde(default = "base")]
        base: String,
        #[serde(default)]
        format: Format,
        #[serde(default = "mib")]
        virtual_size_mib: u64,
    },
    /// The file has this text and nothing else.
    File { path: String, text: String },
    /// Nothing is there.
    Absent { path: String },
    /// Nothing lies in this directory.
    Empty { path: String },
    /// A directory is there, with this mode.
    Directory { path: String, mode: u32 },
    /// How many pool directories there are and how many overlays lie in them.
    Pool {
        directories: usize,
        overlays: Option<usize>,
        /// Waits until it is so.
        #[serde(default)]
        wait: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Signal {
    Kill,
    Stop,
    Cont,
}

impl Signal {
    pub(crate) fn number(self) -> rustix::process::Signal {
        match self {
            Self::Kill => rustix::process::Signal::KILL,
            Self::Stop => rustix::process::Signal::STOP,
            Self::Cont => rustix::process::Signal::CONT,
        }
    }
}

fn base() -> String {
    "base.qcow2".to_owned()
}

fn before_now() -> i64 {
    -10
}

fn mib() -> u64 {
    Image::default().mib
}
