//! Overlays as ephemeral volumes of Kubernetes: a driver of the Container Storage Interface.
//!
//! A Pod asks for a volume of the driver `overlay-pool.csi` and names an image; the kubelet of its
//! node has the [`Driver`] publish it, which has a server on that node hand an overlay over. The
//! Pod is given a directory with the overlay, its base image, read-only, and a file with the
//! arguments that QEMU opens the two with. The guide `kubernetes` has an example.
//!
//! A driver keeps nothing that the next one needs: that asks the server, whose leases have the volumes'
//! ids.
//! Each call may come twice, or after either of the two was killed in the middle of the first one.

mod base_mount;
mod driver;
mod figures;
mod identity;
mod image;
mod image_labels;
mod leases;
mod messages;
mod node;
mod place;
mod refusal;
mod request;
mod serve;
mod service;
mod tree;
mod volume;

pub use driver::{Driver, Settings};
pub use identity::NAME;
