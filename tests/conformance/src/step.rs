//! A step of a case, as its file has it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::case::{Format, Image};

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
    New {
        max_concurrent_vms: i64,
        /// What it must say that its size is.
        pool_size: Option<i64>,
    },
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
    /// Starts the pool many times at once: one start succeeds.
    StartMany { count: usize, bases: Vec<String> },
    /// Starts the pool and cancels that at once. Where it was done before, the pool is stopped.
    StartCancelled {
        bases: Vec<String>,
        /// It can't be done before.
        #[serde(default)]
        none_done: bool,
        /// It is cancelled when an overlay lies in the pool directory. If that was less than half of
        /// them when the cancellation was answered, it can't be done before.
        #[serde(default)]
        while_made: bool,
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
        /// In bytes, instead.
        virtual_size: Option<u64>,
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
    /// Acquires one after the other, each when the shelf is full again: all are pooled. The shelf
    /// isn't full again sooner than that; if that is given, never are more ready or being made than
    /// at the beginning.
    AcquireSteadily {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
        #[serde(default)]
        not_sooner_than_ms: u64,
    },
    /// Acquires twice from a new pool, each time so long before `shelf_idle` is over that nothing is given
    /// up, and all in all longer. Where that took too long, it is done again with twice the time.
    AcquireBeforeIdle {
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Refills a shelf in a new pool, with an interval of 0 and with the default one in turns, until
    /// one of them was the quicker one much oftener. It must be the first, by half of the default.
    CompareIntervals {
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Watches the files that are opened in the pool directory, until two pauses between them were
    /// twice as long as the first ones, or one lasts for 5 s.
    LongerPauses {},
    /// Acquires one after the other; meanwhile, each time a little later, at last after so long, the
    /// runner makes a file at the target. Exactly one of both wins.
    AcquireContested {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
        spread_ms: u64,
    },
    /// Acquires at one target three times. Before the second there are links at the names that other
    /// files in its directory had during the one before, and at those that count on from them, before
    /// the third there are files: none of them is written to or handed over.
    AcquireReusingNames {
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Acquires an overlay, and stops what makes it. A ready one can be acquired before that goes on.
    AcquireBesideHung {
        hung_base: String,
        hung_target: String,
        #[serde(default = "base")]
        base: String,
        target: String,
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
        /// What is stopped stays so, and is gone in the end, in `create_timeout` and 5 s; no more
        /// files are open then than before.
        #[serde(default)]
        stays_stopped: bool,
        /// One after the other, each a little later after it was sent than the one before, at last
        /// after so long. In the end no more files are open and no more processes run than before.
        spread_ms: Option<u64>,
    },
    /// Acquires one overlay after the other until one is seen being made ahead, by a process that
    /// the shim has started: that is stopped, the base image gets another modification time or is
    /// replaced, an overlay is acquired, and the process goes on. What was never ready isn't discarded. Shelves
    /// hold one.
    ChangeWhileMade {
        #[serde(default = "base")]
        base: String,
        target: String,
        /// What it is replaced by.
        image: Option<Image>,
    },
    /// Acquires one overlay after the other until one is seen being made ahead, by a process that
    /// the shim has started: that is stopped, and a ready one can be acquired before it goes on.
    /// Shelves hold more than ten.
    AcquireWhileMade {
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Acquires at the same time; stops the first process that the shim has started for it, and
    /// kills the shim. Nothing that it has started may outlive it.
    AcquireKilled {
        count: usize,
        #[serde(default = "base")]
        base: String,
        target: String,
    },
    /// Acquires an overlay; stops the first process that the shim has started for it, and then the
    /// pool. Nothing that it has started may be left, and the acquire ends in one way or another.
    StopWhileMade {
        /// Acquires so many at the same time, and stops the pool at once. A process that is there after
        /// that hangs.
        count: Option<usize>,
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
    /// Lets time pass.
    Wait { ms: u64 },

    /// Sends a signal to every process that the shim has started.
    Signal { signal: Signal },
    /// Writes a small file.
    Write { path: String, text: String },
    /// Makes a symbolic link.
    Symlink {
        path: String,
        to: String,
        /// It holds a path from the case's own folder, in which it lies itself.
        #[serde(default)]
        relative: bool,
    },
    /// Removes a file or a directory with all that it holds.
    Remove {
        path: String,
        /// And makes an empty directory of that name.
        #[serde(default)]
        and_make: bool,
    },
    /// Moves a file or a directory.
    Rename { from: String, to: String },
    /// Makes a directory.
    Mkdir { path: String },
    /// Makes a named pipe, which nobody writes to.
    Fifo { path: String },
    /// Sets the mode of a file or a directory.
    Chmod { path: String, mode: u32 },
    /// Gives a file, a directory or a symbolic link itself to another user or group.
    Chown { path: String, uid: Option<u32>, gid: Option<u32> },
    /// Makes a base image; one that is there is replaced by another file.
    Image {
        path: String,
        #[serde(default)]
        image: Image,
        /// The new file has the modification time of the one before.
        #[serde(default)]
        keeps_time: bool,
        /// It is written over the one before.
        #[serde(default)]
        in_place: bool,
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
        /// In bytes, instead.
        virtual_size: Option<u64>,
    },
    /// The file has this text and nothing else.
    File { path: String, text: String },
    /// Nothing is there.
    Absent { path: String },
    /// Nothing lies in this directory.
    Empty { path: String },
    /// In this directory lie acquired overlays and nothing else, in the end.
    OnlyAcquired { path: String },
    /// A directory is there, with this mode.
    Directory { path: String, mode: u32 },
    /// How many pool directories there are and how many overlays lie in them.
    Pool {
        directories: usize,
        overlays: Option<usize>,
        /// Nobody else can lock them.
        #[serde(default)]
        held: bool,
        /// Waits until it is so.
        #[serde(default)]
        wait: bool,
    },
}

impl Step {
    /// Whether it gives the pool a base image of this format.
    pub(crate) fn declares(&self, declared: Format, is_it: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Start { bases: Some(bases), format, .. } => {
                *format == declared && bases.iter().any(|base| is_it(base))
            }
            Self::Acquire { base, format, .. } => *format == declared && is_it(base),
            _ => false,
        }
    }

    /// Whether it looks at files alone.
    pub(crate) fn is_look(&self) -> bool {
        use Step::{Absent, Directory, Empty, File, OnlyAcquired, Pool, Sound};
        matches!(
            self,
            Absent { .. }
                | Directory { .. }
                | Empty { .. }
                | File { .. }
                | OnlyAcquired { .. }
                | Pool { .. }
                | Sound { .. }
        )
    }
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
