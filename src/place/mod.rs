//! Where files lie on their way to a caller: owned directories, targets, drafts.
//!
//! An owner makes a directory of its own below a common one, under a prefix of its own, and holds
//! a lock on it for life; what it left when it died, the next owner with that prefix sweeps. A
//! *target* is where a file shall appear, whole or not at all, and only where nothing is. What is to
//! outlive its owner lies in a *store*.

mod directory;
mod draft;
mod entry;
#[cfg(feature = "server")]
mod file_id;
mod hidden;
mod names;
#[cfg(feature = "server")]
mod removal;
mod rename;
#[cfg(feature = "server")]
mod store;
mod sweep;
mod target;
mod trial;
mod trust;

pub(crate) use directory::Directory;
pub(crate) use draft::Draft;
pub(crate) use entry::Entry;
#[cfg(feature = "server")]
pub(crate) use file_id::FileId;
#[cfg(feature = "server")]
pub(crate) use names::leads_through;
#[cfg(feature = "server")]
pub(crate) use removal::{finish_removal, remove_only};
#[cfg(any(feature = "vm", feature = "images"))]
pub(crate) use rename::rename_new;
#[cfg(feature = "server")]
pub(crate) use store::Store;
pub(crate) use sweep::remove_leftovers;
pub(crate) use target::Spot;
#[cfg(feature = "server")]
pub(crate) use trust::{is_anothers, is_shared, others_may_change};

pub use draft::try_target;
pub use hidden::remove_hidden;
pub use sweep::{Leftover, PlaceError, Sweep, sweep, try_directory};
pub use target::Target;
pub use trial::{Misfit, misfit};
pub use trust::{can_confine, open_trusted};
