//! A case as its file has it. The JSON schema is made from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::step::Step;
use crate::id::Id;

/// One case of the conformance suite. All paths are relative to the case's own folder.
///
/// After the steps of every case the pool is stopped and the shim asked to exit. Then no pool
/// directory may be left, no process, every acquired overlay must still be there, and no base
/// image may have changed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows, in one sentence.
    pub about: String,
    /// The promises of CONTRACT.md that it proves, or whole rules; the first is of the rule that it
    /// is about.
    #[schemars(length(min = 1))]
    pub promises: Vec<Id>,
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
    /// The bits of a mode that new files of the shim don't get, instead of those of the runner.
    pub(crate) umask: Option<u32>,
    /// What is done and expected, in this order.
    #[schemars(with = "Vec<Step>", length(min = 1))]
    pub(crate) steps: Vec<Spanned<Step>>,
    /// The text that it was read from.
    #[serde(skip)]
    text: String,
}

impl Case {
    /// Reads a case's file.
    ///
    /// # Errors
    ///
    /// Where it is no case, and why.
    pub fn read(text: String) -> Result<Self, toml::de::Error> {
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

    /// Whether it is about this rule.
    #[must_use]
    pub fn is_about(&self, rule: &str) -> bool {
        self.promises.first().is_some_and(|id| id.rule().to_string() == rule)
    }

    /// Whether it proves this rule, or a promise of it.
    #[must_use]
    pub fn proves(&self, rule: &str) -> bool {
        self.promises.iter().any(|id| id.rule().to_string() == rule)
    }

    /// The text that it was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether root's powers have to be taken from the shim: nobody else has any, but for those of
    /// whoever may mount.
    pub(crate) fn wants_no_powers(&self) -> bool {
        let is_root = rustix::process::geteuid().is_root();
        self.unprivileged && (is_root || self.mounts_anything())
    }

    /// How many shelves a base image may have: one for each format that the steps declare it in.
    pub(crate) fn shelves(&self, is_it: impl Fn(&str) -> bool) -> usize {
        let formats = [Format::Qcow2, Format::Raw];
        let declared = |format: &&Format| self.has(|step| step.declares(**format, &is_it));
        formats.iter().filter(declared).count().max(1)
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
    /// Without the pattern: nothing was ever written to it.
    pub(crate) blank: bool,
}

impl Default for Image {
    fn default() -> Self {
        Self { mib: 16, format: Format::Qcow2, blank: false }
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
