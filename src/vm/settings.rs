//! What a VM manager is told, by a program or by the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::accelerator::Accelerator;
use super::images;
use super::language::Language;
use super::languages::Languages;
use super::variable::{SettingsError, Variable, number, on_off, text};
use crate::PoolConfig;

/// What a VM manager is told when it is made.
///
/// # Example
///
/// ```
/// use overlay_pool::vm::{Accelerator, VmSettings};
///
/// let settings = VmSettings { accelerator: Accelerator::Tcg, ..VmSettings::default() };
/// assert_eq!(settings.max_concurrent_vms, 10);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSettings {
    /// Where the base images are. `OVERLAY_POOL_IMAGES`; default the first of these that has one:
    /// `images`, `target/guest-images`, `guest-images` in `dir` and in `/var/lib/overlay-pool`.
    pub base_images_dir: PathBuf,
    /// The guests' kernel. `OVERLAY_POOL_KERNEL`; default `vmlinuz-ARCH` beside the base images.
    pub kernel_path: Option<PathBuf>,
    /// The guests' initramfs. `OVERLAY_POOL_INITRAMFS`; default `initramfs-ARCH` beside the base
    /// images.
    pub initramfs_path: Option<PathBuf>,
    /// How many VMs there may be at once; half as many overlays are kept ready.
    /// `OVERLAY_POOL_MAX_VMS`; default 10.
    pub max_concurrent_vms: u32,
    /// A guest's memory in MiB. `OVERLAY_POOL_MEMORY`; default 128, for JavaScript 256.
    pub memory_mib: Option<u32>,
    /// How many processors a guest has. `OVERLAY_POOL_CPUS`; default 1.
    pub cpus: u32,
    /// What runs the guests' instructions. `OVERLAY_POOL_ACCEL`; default [`Accelerator::Auto`].
    pub accelerator: Accelerator,
    /// How long a guest may take until it is ready. `OVERLAY_POOL_BOOT_TIMEOUT` in seconds;
    /// default 60.
    pub boot_timeout: Duration,
    /// How long code may run if a call doesn't say. `OVERLAY_POOL_EXECUTE_TIMEOUT` in seconds;
    /// default 60.
    pub execute_timeout: Duration,
    /// How many bytes of each output of a program are kept. `OVERLAY_POOL_MAX_OUTPUT`; default
    /// 1 MiB.
    pub max_output: usize,
    /// QEMU, by path or by name on `PATH`. `OVERLAY_POOL_QEMU`; default `qemu-system-ARCH`.
    pub qemu: PathBuf,
    /// Where VMs have their working directories and the pool its own. `OVERLAY_POOL_DIR`; default
    /// that of [`PoolConfig`].
    pub dir: PathBuf,
    /// Whether VMs are resumed from saved states. `OVERLAY_POOL_RESUME`, `on` or `off`; default on.
    pub resume: bool,
    /// Where the saved states are kept. `OVERLAY_POOL_STATES`; default `states` in `dir`.
    pub states_dir: Option<PathBuf>,
    /// How much of the host's disk a VM's disk may take, in MiB; past that the guest's writes
    /// fail. `OVERLAY_POOL_DISK`; default [`VmSettings::DISK_MIB`].
    pub disk_mib: u32,
    /// What VMs' code may be written in. `OVERLAY_POOL_INTERPRETERS`, a file as [`Languages::read`] takes
    /// it; default [`Language::BUILT_IN`].
    pub languages: Languages,
    /// How many VMs of each language wait for code. `OVERLAY_POOL_WARM`, as in
    /// `python=4,javascript=2`; default none.
    pub warm: BTreeMap<Language, u32>,
    /// After how long without any asked for, the VMs of a language that wait are given up.
    /// `OVERLAY_POOL_WARM_IDLE` in seconds; default 600.
    pub warm_idle: Duration,
    /// An unprivileged user that QEMU runs as, which only root can have. `OVERLAY_POOL_VM_USER`;
    /// default this process' own user.
    pub vm_user: Option<String>,
    /// Whether each VM has a cgroup that limits its memory, processors and processes, if this
    /// process' own cgroup allows it: the process moves into another one beside them.
    /// `OVERLAY_POOL_CGROUP`, `on` or `off`; default on.
    pub cgroup: bool,
}

impl Default for VmSettings {
    fn default() -> Self {
        let dir = PoolConfig::default().pool_dir;
        Self {
            base_images_dir: images::usual(&dir, &Languages::default()),
            kernel_path: None,
            initramfs_path: None,
            max_concurrent_vms: 10,
            memory_mib: None,
            cpus: 1,
            accelerator: Accelerator::Auto,
            boot_timeout: Duration::from_secs(60),
            execute_timeout: Duration::from_secs(60),
            max_output: 1 << 20,
            qemu: format!("qemu-system-{}", std::env::consts::ARCH).into(),
            dir,
            resume: true,
            states_dir: None,
            disk_mib: Self::DISK_MIB,
            languages: Languages::default(),
            warm: BTreeMap::new(),
            warm_idle: Duration::from_secs(600),
            vm_user: None,
            cgroup: true,
        }
    }
}

impl VmSettings {
    /// How much of the host's disk a VM's disk may take unless the settings say otherwise, in MiB:
    /// all that fits into our guest images, and a little for the overlay's own tables.
    pub const DISK_MIB: u32 = 1056;

    /// The defaults, with what the `OVERLAY_POOL_…` variables of the environment say instead. An
    /// empty variable counts as unset.
    ///
    /// # Errors
    ///
    /// A [`SettingsError`] that names the first variable whose value can't be used.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::from_env_in(PoolConfig::default().pool_dir)
    }

    /// Those of [`VmSettings::from_env`], with another default of [`VmSettings::dir`].
    ///
    /// # Errors
    ///
    /// Those of [`VmSettings::from_env`].
    pub fn from_env_in(dir: PathBuf) -> Result<Self, SettingsError> {
        Self::from_variables(dir, std::env::var_os)
    }

    fn from_variables(
        dir: PathBuf,
        variable: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let get = |name| Variable { name, value: variable(name).filter(|value| !value.is_empty()) };
        let default = Self::default();
        let path = |name| get(name).value.map(PathBuf::from);
        let dir = path("OVERLAY_POOL_DIR").unwrap_or(dir);
        let languages = get("OVERLAY_POOL_INTERPRETERS").read(Languages::read)?.unwrap_or_default();
        Ok(Self {
            base_images_dir: path("OVERLAY_POOL_IMAGES")
                .unwrap_or_else(|| images::usual(&dir, &languages)),
            kernel_path: path("OVERLAY_POOL_KERNEL"),
            initramfs_path: path("OVERLAY_POOL_INITRAMFS"),
            max_concurrent_vms: get("OVERLAY_POOL_MAX_VMS")
                .parse(number)?
                .unwrap_or(default.max_concurrent_vms),
            memory_mib: get("OVERLAY_POOL_MEMORY").parse(Self::mib)?,
            cpus: get("OVERLAY_POOL_CPUS").parse(Self::cpus)?.unwrap_or(default.cpus),
            accelerator: get("OVERLAY_POOL_ACCEL")
                .parse(str::parse)?
                .unwrap_or(default.accelerator),
            boot_timeout: get("OVERLAY_POOL_BOOT_TIMEOUT")
                .parse(Self::seconds)?
                .unwrap_or(default.boot_timeout),
            execute_timeout: get("OVERLAY_POOL_EXECUTE_TIMEOUT")
                .parse(Self::seconds)?
                .unwrap_or(default.execute_timeout),
            max_output: get("OVERLAY_POOL_MAX_OUTPUT").parse(number)?.unwrap_or(default.max_output),
            qemu: path("OVERLAY_POOL_QEMU").unwrap_or(default.qemu),
            dir,
            resume: get("OVERLAY_POOL_RESUME").parse(on_off)?.unwrap_or(default.resume),
            states_dir: path("OVERLAY_POOL_STATES"),
            disk_mib: get("OVERLAY_POOL_DISK").parse(Self::mib)?.unwrap_or(default.disk_mib),
            warm: get("OVERLAY_POOL_WARM")
                .parse(|text| languages.counts(text))?
                .unwrap_or_default(),
            languages,
            warm_idle: get("OVERLAY_POOL_WARM_IDLE")
                .parse(Self::seconds)?
                .unwrap_or(default.warm_idle),
            vm_user: get("OVERLAY_POOL_VM_USER").parse(text)?,
            cgroup: get("OVERLAY_POOL_CGROUP").parse(on_off)?.unwrap_or(default.cgroup),
        })
    }

    /// The guests' kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.beside_images(self.kernel_path.as_ref(), "vmlinuz")
    }

    /// The guests' initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.beside_images(self.initramfs_path.as_ref(), "initramfs")
    }

    /// Where `overlay-pool images build` puts the guest images: `guest-images` in `dir`.
    #[must_use]
    pub fn built_images(&self) -> PathBuf {
        images::built(&self.dir)
    }

    /// Where the saved states are kept.
    #[must_use]
    pub fn states(&self) -> PathBuf {
        self.states_dir.clone().unwrap_or_else(|| self.dir.join("states"))
    }

    fn beside_images(&self, set: Option<&PathBuf>, name: &str) -> PathBuf {
        let beside = || self.base_images_dir.join(format!("{name}-{}", std::env::consts::ARCH));
        set.cloned().unwrap_or_else(beside)
    }

    /// Takes a time-out as the variables give it: a number of seconds, whole or with a fraction.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn seconds(text: &str) -> Result<Duration, String> {
        let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 86400.0);
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        duration
            .ok_or_else(|| "give a number of seconds over 0 and up to 86400, as in 2.5".to_owned())
    }

    /// Takes a guest's memory, or its disk's limit, as the variables give it.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn mib(text: &str) -> Result<u32, String> {
        let mib = number(text).ok().filter(|mib| (32..=1 << 20).contains(mib));
        mib.ok_or_else(|| "give a number of MiB from 32 to 1048576".to_owned())
    }

    /// Takes a guest's number of processors as the variable gives it.
    ///
    /// # Errors
    ///
    /// What it should be.
    pub fn cpus(text: &str) -> Result<u32, String> {
        let cpus = number(text).ok().filter(|cpus| (1..=255).contains(cpus));
        cpus.ok_or_else(|| "give a number of processors from 1 to 255".to_owned())
    }

    /// How many bytes a guest's disk may have at most, so that all of it can be written within
    /// [`disk_mib`](Self::disk_mib): an overlay's own tables take some of that too.
    #[must_use]
    pub fn largest_disk(&self) -> u64 {
        largest(self.disk_mib)
    }

    /// The least [`disk_mib`](Self::disk_mib) within which all of a guest's disk of so many bytes can be
    /// written.
    ///
    /// # Example
    ///
    /// ```
    /// use overlay_pool::vm::VmSettings;
    ///
    /// let disk_mib = VmSettings::disk_mib_for(4 << 30);
    /// assert!(VmSettings { disk_mib, ..VmSettings::default() }.largest_disk() >= 4 << 30);
    /// ```
    #[must_use]
    pub fn disk_mib_for(size: u64) -> u32 {
        let mib = size.div_ceil(1 << 20).saturating_add(TABLES_MIB);
        let mib = u32::try_from(mib.saturating_add(mib / 1000)).unwrap_or(u32::MAX);
        // Rounded down on the way back.
        mib.saturating_add(1)
    }

    /// What the pool of the VMs' disks is told.
    pub(super) fn pool(&self) -> PoolConfig {
        PoolConfig {
            max_concurrent_vms: self.max_concurrent_vms.into(),
            images_path: self.base_images_dir.clone(),
            pool_dir: self.dir.clone(),
            ..PoolConfig::default()
        }
    }
}

/// What an empty overlay takes, and its tables beyond their share, in MiB.
const TABLES_MIB: u64 = 16;
/// The share of an overlay that its tables take at most: of an entry of 16 bytes and a count of 2 for
/// each 128 KiB, it is less.
const TABLES: u64 = 1024;

/// The most bytes of a guest's disk that can be written within a limit.
fn largest(limit_mib: u32) -> u64 {
    let mib = u64::from(limit_mib).saturating_sub(TABLES_MIB);
    (mib << 20) / TABLES * (TABLES - 1)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// All that fits into our guest images does by default, and a limit that is reckoned is enough.
    #[rstest]
    fn what_a_disk_may_have_fits_its_limit() {
        assert!(VmSettings::default().largest_disk() >= 1 << 30);
        for size in [0, 1, 1 << 20, (1 << 30) + 1, 4 << 30, 1 << 40] {
            let limit = VmSettings::disk_mib_for(size);
            assert!(largest(limit) >= size, "{size}: {limit}");
            assert!(u64::from(limit) << 20 <= size + size / 500 + (20 << 20), "{size}: {limit}");
        }
        assert_eq!(VmSettings::disk_mib_for(u64::MAX), u32::MAX);
        assert_eq!(largest(0), 0);
    }

    fn from(variable: &str, value: &str) -> Result<VmSettings, SettingsError> {
        VmSettings::from_variables("/default".into(), |name| {
            (name == variable).then(|| value.into())
        })
    }

    #[rstest]
    fn every_setting_has_a_variable() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "[ruby]\ncommand = ['ruby']").expect("a language");
        let languages = Languages::read(file.path()).expect("languages");
        let values = [
            ("OVERLAY_POOL_INTERPRETERS", file.path().to_str().expect("text")),
            ("OVERLAY_POOL_IMAGES", "/i"),
            ("OVERLAY_POOL_KERNEL", "/k"),
            ("OVERLAY_POOL_INITRAMFS", "/r"),
            ("OVERLAY_POOL_MAX_VMS", "3"),
            ("OVERLAY_POOL_MEMORY", "512"),
            ("OVERLAY_POOL_CPUS", "2"),
            ("OVERLAY_POOL_ACCEL", "tcg"),
            ("OVERLAY_POOL_BOOT_TIMEOUT", "1.5"),
            ("OVERLAY_POOL_EXECUTE_TIMEOUT", "2"),
            ("OVERLAY_POOL_MAX_OUTPUT", "10"),
            ("OVERLAY_POOL_QEMU", "/q"),
            ("OVERLAY_POOL_DIR", "/d"),
            ("OVERLAY_POOL_RESUME", "off"),
            ("OVERLAY_POOL_STATES", "/s"),
            ("OVERLAY_POOL_DISK", "100"),
            ("OVERLAY_POOL_WARM", "python=4, ruby=2"),
            ("OVERLAY_POOL_WARM_IDLE", "60"),
            ("OVERLAY_POOL_VM_USER", "nobody"),
            ("OVERLAY_POOL_CGROUP", "off"),
        ];
        let settings = VmSettings::from_variables("/default".into(), |name| {
            values.iter().find(|(variable, _)| *variable == name).map(|(_, value)| value.into())
        });
        let expected = VmSettings {
            base_images_dir: "/i".into(),
            kernel_path: Some("/k".into()),
            initramfs_path: Some("/r".into()),
            max_concurrent_vms: 3,
            memory_mib: Some(512),
            cpus: 2,
            accelerator: Accelerator::Tcg,
            boot_timeout: Duration::from_millis(1500),
            execute_timeout: Duration::from_secs(2),
            max_output: 10,
            qemu: "/q".into(),
            dir: "/d".into(),
            resume: false,
            states_dir: Some("/s".into()),
            disk_mib: 100,
            warm: BTreeMap::from([
                (Language::PYTHON, 4),
                (languages.find("ruby").expect("a language"), 2),
            ]),
            languages,
            warm_idle: Duration::from_secs(60),
            vm_user: Some("nobody".to_owned()),
            cgroup: false,
        };
        assert_eq!(settings, Ok(expected));
    }

    #[rstest]
    #[case("OVERLAY_POOL_ACCEL", "hvf", "an accelerator is auto, kvm or tcg")]
    #[case("OVERLAY_POOL_MAX_VMS", "-1", "give a whole number")]
    #[case("OVERLAY_POOL_MEMORY", "1", "give a number of MiB from 32 to 1048576")]
    #[case("OVERLAY_POOL_RESUME", "yes", "give on or off")]
    #[case(
        "OVERLAY_POOL_BOOT_TIMEOUT",
        "0",
        "give a number of seconds over 0 and up to 86400, as in 2.5"
    )]
    #[case(
        "OVERLAY_POOL_BOOT_TIMEOUT",
        "NaN",
        "give a number of seconds over 0 and up to 86400, as in 2.5"
    )]
    #[case(
        "OVERLAY_POOL_EXECUTE_TIMEOUT",
        "1e30",
        "give a number of seconds over 0 and up to 86400, as in 2.5"
    )]
    #[case("OVERLAY_POOL_MAX_OUTPUT", "1M", "give a whole number")]
    #[case("OVERLAY_POOL_CPUS", "0", "give a number of processors from 1 to 255")]
    #[case("OVERLAY_POOL_DISK", "0", "give a number of MiB from 32 to 1048576")]
    #[case(
        "OVERLAY_POOL_WARM",
        "python",
        "give a number for each language, as in python=4,javascript=2"
    )]
    fn a_bad_value_is_named(#[case] variable: &str, #[case] value: &str, #[case] expected: &str) {
        let error = from(variable, value).expect_err("a bad value");
        assert_eq!(error.to_string(), format!("{variable}={value:?}: {expected}"));
    }

    #[rstest]
    fn an_empty_variable_is_unset() {
        assert_eq!(from("OVERLAY_POOL_ACCEL", ""), from("NONE", ""));
    }
}
