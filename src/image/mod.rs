//! What a disk image is: base images, the qcow2 header, and the bytes of an empty overlay.
//!
//! Nothing here does I/O beyond bounded reads, of a base image or of the images below a directory.

mod base;
mod cut_off;
mod discover;
mod header;
mod header_error;
mod in_use;
mod kind;
#[cfg(feature = "vm")]
mod layer;
mod layout;
mod overlay;

pub(crate) use base::absolute;
pub use base::{Base, BaseError, BaseImage, BaseRef, Identity, References, read_start};
pub use discover::{discover, overlooked};
pub use header::{Bitmaps, CompressionType, Extensions, Header, READ_LIMIT};
pub use header_error::HeaderError;
pub use in_use::{InUse, in_use, references_of};
pub use kind::Kind;
#[cfg(feature = "vm")]
pub(crate) use layer::Layer;
#[cfg(feature = "vm")]
pub use layer::LayerError;
pub use overlay::{Extent, Format, Overlay, OverlayError, OverlayOptions, Profile, feature_name};
