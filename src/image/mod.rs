//! What a disk image is: base images, the qcow2 header, and the bytes of an empty overlay.
//!
//! Nothing here does I/O beyond one bounded read of a base image.

mod base;
mod header;
mod header_error;
mod layout;
mod overlay;

pub use base::{BaseError, BaseImage, BaseRef, Identity, References, read_start};
pub use header::{Bitmaps, CompressionType, Extensions, Header, READ_LIMIT};
pub use header_error::HeaderError;
pub use overlay::{Extent, Format, Overlay, OverlayError, OverlayOptions, Profile, feature_name};
