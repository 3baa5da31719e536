//! The cgroup that those of VMs are made in: this process' own, if it was given to it for that.
//!
//! A cgroup that limits those in it may have no process of its own (the kernel's rule, see
//! "No Internal Process Constraint" in its `cgroup-v2.rst`), so this process moves into one beside
//! those of its VMs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, getxattr};

/// The names of what a cgroup can limit.
pub(super) const MEMORY: &str = "memory";
pub(super) const PROCESSORS: &str = "cpu";
pub(super) const PROCESSES: &str = "pids";
const CONTROLLERS: [&str; 3] = [MEMORY, PROCESSORS, PROCESSES];

/// The name of the cgroup that this process moves into.
const OWN: &str = "overlay-pool";
/// What systemd marks a cgroup with that is its service's to divide; before 251 only the second.
const MARKS: [&str; 2] = ["user.delegate", "trusted.delegate"];

const DELEGATE: &str = "start the server by systemd with Delegate=cpu memory pids, or in a cgroup of \
                        its own that it may change";

const VERSION_2: &str = "boot the host with cgroups of version 2 alone, and not with version 1";

/// Where cgroups of VMs can be made.
#[derive(Debug)]
pub(super) struct Parent {
    path: PathBuf,
    /// Whether this process is in it and must not be.
    inside: bool,
    /// What those in it can limit.
    controllers: Vec<&'static str>,
}

/// Why there is none, or a limit isn't there.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) reason: String,
    pub(super) advice: &'static str,
}

impl Unusable {
    pub(super) fn unwanted() -> Self {
        let reason = "not limited, as OVERLAY_POOL_CGROUP=off says".to_owned();
        Self { reason, advice: "unset it" }
    }

    fn for_want_of_delegation(reason: &str) -> Self {
        Self { reason: format!("not limited: {reason}"), advice: DELEGATE }
    }
}

impl Parent {
    /// Looks whether there is one, and changes nothing.
    pub(super) fn find() -> Result<Self, Unusable> {
        let unusable = Unusable::for_want_of_delegation;
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let own = own_cgroup(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let own = own.ok_or_else(|| Unusable {
            reason: "not limited: no cgroup of version 2 is mounted".to_owned(),
            advice: VERSION_2,
        })?;
        let moved = own.file_name().is_some_and(|name| name == OWN);
        let path = if moved { own.parent().unwrap_or(&own).to_owned() } else { own };
        let shown = path.display();
        let controllers = listed(&path.join("cgroup.controllers"));
        if controllers.is_empty() {
            let reason = format!("not limited: {shown} has no controller for it");
            return Err(Unusable { reason, advice: VERSION_2 });
        }
        // Of all cgroups the first alone has no type.
        let is_root = !path.join("cgroup.type").exists();
        if Path::new("/run/systemd/system").exists() && !is_delegated(&path) {
            return Err(unusable(&format!("systemd keeps {shown} to itself")));
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            access(path.join(file), Access::WRITE_OK)
                .map_err(|errno| unusable(&format!("{shown}: {}", io::Error::from(errno))))?;
        }
        let inside = !moved && !is_root;
        if inside && !is_alone(&path) {
            return Err(unusable(&format!("other processes are in {shown}")));
        }
        Ok(Self { path, inside, controllers })
    }

    /// Has it limit those in it.
    pub(super) fn enter(self) -> Result<Self, Unusable> {
        let Self { path, inside, controllers } = self;
        let entered = (|| {
            if inside {
                let own = path.join(OWN);
                match fs::create_dir(&own) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error)?,
                    _ => fs::write(own.join("cgroup.procs"), "0")?,
                }
            }
            let control = path.join("cgroup.subtree_control");
            for controller in controllers {
                if let Err(error) = fs::write(&control, format!("+{controller}")) {
                    tracing::warn!(cgroup = %path.display(), controller, %error, "no such limit");
                }
            }
            Ok::<_, io::Error>(listed(&control))
        })();
        match entered {
            Ok(controllers) => Ok(Self { path, inside: false, controllers }),
            Err(error) => {
                Err(Unusable::for_want_of_delegation(&format!("{}: {error}", path.display())))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Why it doesn't limit this.
    pub(super) fn lacks(&self, controller: &str) -> Option<Unusable> {
        let reason = || format!("{} has no controller {controller}", self.path.display());
        (!self.has(controller)).then(|| Unusable::for_want_of_delegation(&reason()))
    }
}

/// The directory of this process' cgroup of version 2.
fn own_cgroup(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|mount| {
        let (at, kind) = mount.split_once(" - ")?;
        let mut at = at.split(' ').skip(3);
        let (root, directory) = (at.next()?, at.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ")
            .then(|| Path::new(directory).components().chain(below.components()).collect())
    })
}

/// Those of the controllers that a file lists.
fn listed(file: &Path) -> Vec<&'static str> {
    let text = fs::read_to_string(file).unwrap_or_default();
    CONTROLLERS
        .into_iter()
        .filter(|name| text.split_whitespace().any(|word| word == *name))
        .collect()
}

fn is_delegated(cgroup: &Path) -> bool {
    MARKS.iter().any(|mark| {
        let mut value = [0; 8];
        getxattr(cgroup, *mark, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

fn is_alone(cgroup: &Path) -> bool {
    let own = std::process::id().to_string();
    let processes = fs::read_to_string(cgroup.join("cgroup.procs"));
    processes.is_ok_and(|processes| processes.lines().all(|process| process == own))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const V2: &str = "\
22 1 0:20 / /proc rw - proc proc rw
31 22 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const BOTH: &str = "\
40 30 0:35 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 30 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    const INNER: &str = "50 40 0:27 /outer /sys/fs/cgroup rw - cgroup2 cgroup rw";

    #[rstest]
    #[case(V2, "0::/system.slice/a.service\n", Some("/sys/fs/cgroup/system.slice/a.service"))]
    #[case(V2, "0::/\n", Some("/sys/fs/cgroup"))]
    #[case(BOTH, "4:memory:/x\n0::/y\n", Some("/sys/fs/cgroup/unified/y"))]
    #[case(BOTH, "4:memory:/x\n", None)]
    #[case(INNER, "0::/outer/inner\n", Some("/sys/fs/cgroup/inner"))]
    #[case::of_another_namespace(INNER, "0::/elsewhere\n", None)]
    #[case::version_1_alone(BOTH.lines().next().unwrap_or_default(), "0::/\n", None)]
    fn the_own_cgroup_is_found(
        #[case] mounts: &str,
        #[case] cgroups: &str,
        #[case] expected: Option<&str>,
    ) {
        assert_eq!(own_cgroup(mounts, cgroups).as_deref(), expected.map(Path::new));
    }
}
