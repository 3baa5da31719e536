//! Base images of OCI registries: pulled by digest, kept in a store, named by links, pruned.
//!
//! An image is an OCI artifact whose one layer is the disk, or a container disk of `KubeVirt`: the
//! disk is the file below `/disk` in a layer. What a registry says is untrusted. It is bounded
//! before it is parsed, what is received is hashed while it is written, and only what has the
//! digest that was asked for, and is judged good as a base image, is put into the [`Store`]:
//!
//! ```text
//! sha256/<hex>                   the images, mode 0444
//! <registry>/<repository>/<tag>.qcow2   links to them, put in place atomically
//! layers/<hex>                   links to the disk that was in a layer
//! disks/<hex>                    links to directories whose disks may refer to the images
//! leases/<hex>                   links to directories of servers' records of disks
//! partial/<hex>                  what is being received, locked by whoever receives it
//! ```
//!
//! Nothing here knows of pools.

mod archive;
mod credentials;
mod digest;
mod directory;
mod error;
mod in_use;
mod manifest;
mod noted;
mod partial;
mod progress;
mod prune;
mod pull;
mod push;
mod reference;
mod registry;
mod registry_error;
mod retries;
mod store;
mod unpack;

pub use archive::ArchiveError;
pub use credentials::usual_credential_files;
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use in_use::bases_below;
pub use manifest::ManifestError;
pub use noted::NotedLeases;
pub use progress::{Progress, Tell};
pub use prune::{Pruned, Reason};
pub use pull::{Pulled, Puller};
pub use reference::ImageRef;
pub use registry::RegistrySettings;
pub use registry_error::RegistryError;
pub use store::{Holding, Store, Stored};
