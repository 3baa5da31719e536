//! The directory of the kubelet, below which volumes are published.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat};
use rustix::io::Errno;

use super::volume::Volume;

/// Where the kubelet has volumes of CSI, in a Pod's directory.
const VOLUMES: &str = "volumes/kubernetes.io~csi";
/// What it remembers of each, beside the volume's own directory.
const RECORD: &str = "vol_data.json";
/// What it calls a volume's own directory.
const MOUNT: &str = "mount";
/// How many Pods it may have, and how many volumes a Pod.
const MOST: usize = 10_000;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The directory of the kubelet. What Pods may write to lies below it, so that no symbolic link is
/// followed from there on.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As the kubelet writes it.
    written: PathBuf,
}

/// Why there is no volume at a path.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("{}: not below {}, the directory of the kubelet (--kubelet-dir)", path.display(), place.display())]
    Outside { path: PathBuf, place: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Place {
    pub(super) fn new(written: PathBuf) -> Self {
        Self { written }
    }

    /// The volume at `target`; none if nothing is there.
    pub(super) fn find(&self, target: &Path) -> Result<Option<Volume>, PlaceError> {
        let failed = |errno: Errno| PlaceError::Io { path: target.into(), source: errno.into() };
        let found = self.parent_of(target)?.and_then(|parent| {
            let directory = open_in(&parent, name(target))?;
            Ok(Volume::new(parent, directory, target.to_owned()))
        });
        match found {
            Ok(volume) => Ok(Some(volume)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Makes the volume's directory, unless it is there. The kubelet has made the one above.
    pub(super) fn make(&self, target: &Path) -> Result<Volume, PlaceError> {
        let failed = |errno: Errno| PlaceError::Io { path: target.into(), source: errno.into() };
        let parent = self.parent_of(target)?.map_err(failed)?;
        match mkdirat(&parent, name(target), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let directory = open_in(&parent, name(target)).map_err(failed)?;
        Ok(Volume::new(parent, directory, target.to_owned()))
    }

    /// Whether the kubelet has forgotten a volume: it keeps a record beside each, from before it has
    /// it published until it was unpublished. Where there is nothing of a kubelet's, nothing was
    /// forgotten.
    pub(super) fn has_forgotten(&self, target: &Path) -> bool {
        let is_kubelets = target.ancestors().nth(2).is_some_and(|above| above.ends_with(VOLUMES));
        let own = openat(CWD, &self.written, DIRECTORY | OFlags::PATH, Mode::empty());
        let pods = own.and_then(|own| open_below(&own, "pods".as_ref()));
        if !is_kubelets || pods.is_err() {
            return false;
        }
        let record = self.parent_of(target).map(|parent| {
            parent.and_then(|parent| statat(&parent, RECORD, AtFlags::SYMLINK_NOFOLLOW))
        });
        matches!(record, Ok(Err(Errno::NOENT)))
    }

    /// Where there are volumes of which the kubelet has no record, whoever made them, in Pods that have
    /// no others: most that run have one, with their token.
    pub(super) fn unrecorded(&self) -> Result<Vec<PathBuf>, PlaceError> {
        let mut found = Vec::new();
        for pod in entries(&self.written.join("pods"))? {
            match unrecorded_of(&pod) {
                Ok(targets) => found.extend(targets),
                Err(error) => tracing::warn!(%error, "a Pod's volumes can't be looked at"),
            }
        }
        Ok(found)
    }

    /// Whether such a volume is at `target` now.
    pub(super) fn is_unrecorded(&self, target: &Path) -> Result<bool, PlaceError> {
        let Some(pod) = target.ancestors().nth(4) else { return Ok(false) };
        Ok(unrecorded_of(pod)?.iter().any(|found| found == target) && self.has_forgotten(target))
    }

    /// The path of the directory in which the kubelet wants the volume's, from its own on.
    pub(super) fn above<'a>(&self, target: &'a Path) -> Result<&'a Path, PlaceError> {
        let above = target.strip_prefix(&self.written).ok().and_then(Path::parent);
        above.ok_or_else(|| PlaceError::Outside {
            path: target.to_owned(),
            place: self.written.clone(),
        })
    }

    /// The directory in which the kubelet wants the volume's.
    fn parent_of(&self, target: &Path) -> Result<Result<OwnedFd, Errno>, PlaceError> {
        let above = self.above(target)?;
        let own = openat(CWD, &self.written, DIRECTORY | OFlags::PATH, Mode::empty());
        Ok(own.and_then(
            |own| {
                if above == Path::new("") { Ok(own) } else { open_below(&own, above) }
            },
        ))
    }
}

/// The volumes of a Pod, if the kubelet has a record of none, and there are no others.
fn unrecorded_of(pod: &Path) -> Result<Vec<PathBuf>, PlaceError> {
    let mut found = Vec::new();
    for kind in entries(&pod.join("volumes"))? {
        for volume in entries(&kind)? {
            let target = volume.join(MOUNT);
            if !kind.ends_with(VOLUMES) || entries(&volume)? != [target.as_path()] {
                return Ok(Vec::new());
            }
            found.push(target);
        }
    }
    Ok(found)
}

/// What is in a directory of the kubelet's, to which no Pod writes; nothing if it isn't there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, PlaceError> {
    let failed = |source| PlaceError::Io { path: directory.into(), source };
    let entries = match fs::read_dir(directory) {
        Err(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed)?,
    };
    let paths = entries.take(MOST + 1).map(|entry| entry.map(|entry| entry.path()));
    let paths: Vec<_> = paths.collect::<io::Result<_>>().map_err(failed)?;
    if paths.len() > MOST {
        return Err(failed(io::Error::other(format!("over {MOST} files"))));
    }
    Ok(paths)
}

fn name(target: &Path) -> &Path {
    target.file_name().unwrap_or_default().as_ref()
}

fn open_below(directory: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(directory, path, DIRECTORY | OFlags::PATH, Mode::empty(), resolve)
}

fn open_in(parent: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    openat(parent, name, DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_volume_is_made_once_and_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place::new(dir.path().to_owned());
        let target = dir.path().join("mount");
        assert!(place.find(&target).expect("a look").is_none());
        place.make(&target).expect("it is made");
        place.make(&target).expect("it is there");
        assert!(place.find(&target).expect("a look").is_some());
    }

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().expect("a folder");
        let kubelet = dir.path().join("kubelet");
        std::fs::create_dir_all(kubelet.join("pods")).expect("folders");
        std::fs::create_dir(dir.path().join("other")).expect("a folder");
        symlink("../other", kubelet.join("link")).expect("a link");
        symlink("../other", kubelet.join("mount")).expect("a link");
        let place = Place::new(kubelet.clone());
        for outside in [dir.path().join("other/mount"), kubelet.clone()] {
            let error = place.make(&outside).expect_err("it is refused");
            assert!(matches!(error, PlaceError::Outside { .. }), "{error}");
        }
        for through in ["link/mount", "mount", "missing/mount"] {
            let error = place.make(&kubelet.join(through)).expect_err("it is refused");
            assert!(matches!(error, PlaceError::Io { .. }), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("other")).expect("a look").count(), 0);
    }

    /// A directory of the kubelet that isn't there says nothing of its volumes.
    #[test]
    fn only_the_kubelet_forgets() {
        let dir = tempfile::tempdir().expect("a folder");
        let kubelet = dir.path().join("kubelet");
        let place = Place::new(kubelet.clone());
        let target = kubelet.join("pods/1/volumes/kubernetes.io~csi/disk/mount");
        assert!(!place.has_forgotten(&target));
        std::fs::create_dir_all(kubelet.join("pods")).expect("folders");
        assert!(place.has_forgotten(&target), "its directory is gone");
        let above = target.parent().expect("one");
        std::fs::create_dir_all(above).expect("folders");
        std::fs::write(above.join(RECORD), "{}").expect("a record");
        assert!(!place.has_forgotten(&target));
        std::fs::remove_file(above.join(RECORD)).expect("it is removed");
        assert!(place.has_forgotten(&target), "its record is gone");
        assert!(!place.has_forgotten(&kubelet.join("pods/1/mount")), "that is no kubelet's");
        assert!(!place.has_forgotten(dir.path()));
    }

    /// A record, or another volume, says that the Pod may be there.
    #[test]
    fn a_pod_that_may_run_has_no_unrecorded_volume() {
        let dir = tempfile::tempdir().expect("a folder");
        let place = Place::new(dir.path().to_owned());
        assert!(place.unrecorded().expect("a look").is_empty());
        let volumes = dir.path().join("pods/1/volumes");
        let targets =
            ["a", "b"].map(|name| volumes.join(format!("kubernetes.io~csi/{name}/mount")));
        for target in &targets {
            std::fs::create_dir_all(target).expect("folders");
        }
        std::fs::write(dir.path().join("pods/file"), "").expect("a file");
        std::fs::create_dir_all(volumes.join("kubernetes.io~projected")).expect("a folder");
        let found = || {
            let mut found = place.unrecorded().expect("a look");
            found.sort();
            found
        };
        assert_eq!(found(), targets);
        assert!(place.is_unrecorded(&targets[0]).expect("a look"));
        for more in ["kubernetes.io~csi/a/vol_data.json", "kubernetes.io~projected/token"] {
            let more = volumes.join(more);
            std::fs::write(&more, "").expect("a file");
            assert!(found().is_empty(), "{}", more.display());
            for target in &targets {
                assert!(!place.is_unrecorded(target).expect("a look"));
            }
            std::fs::remove_file(&more).expect("it is removed");
        }
        assert!(!place.is_unrecorded(dir.path()).expect("a look"));
    }
}
