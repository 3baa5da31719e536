//! Disks as volumes of Kubernetes: a real driver, a real server, mounts, and a kubelet of ours.

mod bench;
mod forgotten;
mod hostile;
mod identity;
mod manifests;
mod mounts;
mod pod;
mod pulled;
mod refusals;
mod restarts;
mod told;

use crate::harness::requirements::Need;
use crate::harness::scratch::names;

/// To make the mount namespace of a node, and to give disks to a Pod's group.
const NODE: &[Need] = &[Need::Csi, Need::MountNamespace, Need::Root, Need::Setpriv];
