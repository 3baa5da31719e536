//! Disks as volumes of Kubernetes: a real driver, a real server, mounts, and a kubelet of ours.

mod bench;
mod identity;
mod manifests;
mod pod;
mod refusals;
mod restarts;

use std::path::Path;

use crate::harness::requirements::Need;

/// To make the mount namespace of a node, and to give disks to a Pod's group.
const NODE: &[Need] = &[Need::Csi, Need::MountNamespace, Need::Root, Need::Setpriv];

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
