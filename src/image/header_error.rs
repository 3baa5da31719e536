//! Why a qcow2 header is refused.

use super::kind::Kind;
use super::layout::{HEADER_LENGTH_V2, HEADER_LENGTH_V3, MAX_BACKING_FORMAT};

/// Why a qcow2 header is refused: the field, what it holds, and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends inside the header.
    #[error("header: the file has {0} bytes, a qcow2 header has at least {HEADER_LENGTH_V2}")]
    Truncated(u64),
    /// The file isn't qcow2, and may be a raw image.
    #[error("magic: {:02x} {:02x} {:02x} {:02x} is not qcow2's 51 46 49 fb", .0[0], .0[1], .0[2], .0[3])]
    Magic([u8; 4]),
    /// The file isn't qcow2, but something else that is known.
    #[error("not qcow2 but {0}")]
    Other(Kind),
    /// Part of the image is missing, as after half a download.
    #[error(
        "the file is cut off: it has {file_len} bytes, and {what} is at {offset:#x}; get or copy \
         the image again"
    )]
    CutOff {
        /// What lies outside the file.
        what: &'static str,
        /// Where it should be, in bytes from the start of the file.
        offset: u64,
        /// The file's length in bytes.
        file_len: u64,
    },
    /// Neither version 2 nor 3.
    #[error("version: {0} is not known, only 2 and 3 are")]
    Version(u32),
    /// A header length that the version or the cluster rules out.
    #[error("header_length: {0} is not within {HEADER_LENGTH_V3} and the cluster size")]
    HeaderLength(u32),
    /// A cluster size that the format doesn't have.
    #[error("cluster_bits: {0} is not within 9 and 21")]
    ClusterBits(u32),
    /// Feature bits that say "don't open me if you don't know me".
    #[error("incompatible_features: bits {0:#x} are not known")]
    UnknownFeatures(u64),
    /// The image wasn't closed properly.
    #[error("incompatible_features: the dirty bit is set; repair the image: qemu-img check -r all")]
    Dirty,
    /// The image's tables are damaged.
    #[error(
        "incompatible_features: the corrupt bit is set; repair the image: qemu-img check -r all"
    )]
    Corrupt,
    /// Extended L2 entries need clusters of at least 16 KiB.
    #[error("cluster_bits: {0} is too small for extended L2 entries, which need 14")]
    ExtendedL2(u32),
    /// An encrypted image.
    #[error("crypt_method: {0} means that the image is encrypted; decrypt it: qemu-img convert")]
    Encrypted(u32),
    /// A compression type that isn't known or contradicts the feature bit.
    #[error("compression_type: {kind} does not go with feature bit 3 {}", if *.bit { "set" } else { "clear" })]
    Compression {
        /// The field's value.
        kind: u8,
        /// Whether incompatible feature bit 3 is set.
        bit: bool,
    },
    /// Refcounts wider than 64 bits.
    #[error("refcount_order: {0} is over 6")]
    RefcountOrder(u32),
    /// A virtual size that can't be mapped.
    #[error("size: {size} bytes is over the limit of {limit}")]
    Size {
        /// The field's value, in bytes.
        size: u64,
        /// The largest size an L1 table can map at this cluster size, in bytes.
        limit: u64,
    },
    /// The L1 table doesn't cover the disk.
    #[error("l1_size: {have} entries are fewer than the {need} that the size needs")]
    L1Size {
        /// The field's value.
        have: u32,
        /// Entries needed.
        need: u64,
    },
    /// A count over the format's bound.
    #[error("{field}: {value} is over the limit of {limit}")]
    TooMany {
        /// The header field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The limit.
        limit: u64,
    },
    /// A table that must be there is not, or lies over the header.
    #[error("{field}: must not be 0")]
    Missing {
        /// The header field.
        field: &'static str,
    },
    /// An offset that isn't a multiple of the cluster size.
    #[error("{field}: {offset:#x} is not a multiple of the cluster size")]
    Unaligned {
        /// The header field.
        field: &'static str,
        /// Its value.
        offset: u64,
    },
    /// A table or name outside the file.
    #[error("{field}: {offset:#x} + {len} bytes lies outside the file of {file_len} bytes")]
    OutsideFile {
        /// The header field.
        field: &'static str,
        /// Bytes from the start of the file.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The file's length in bytes.
        file_len: u64,
    },
    /// A name or extension outside the first cluster, or outside what is read of it.
    #[error("{field}: {offset:#x} + {len} bytes lies outside the header's {limit} bytes")]
    OutsideHeader {
        /// The header field.
        field: &'static str,
        /// Bytes from the start of the file.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// How far the header may reach.
        limit: u64,
    },
    /// A file name with a NUL byte, which no file has; QEMU would read up to it.
    #[error("{field}: the name has a NUL byte")]
    Nul {
        /// The header field.
        field: &'static str,
    },
    /// An extension that isn't as its type says.
    #[error("{field}: its {len} bytes are not what such an extension holds")]
    Extension {
        /// The extension.
        field: &'static str,
        /// Its length in bytes.
        len: u64,
    },
    /// A pointer to a LUKS header in an image that isn't encrypted.
    #[error("LUKS header extension: only an encrypted image has one")]
    StrayLuks,
    /// A text that isn't one.
    #[error("{field}: not valid UTF-8 or over {MAX_BACKING_FORMAT} bytes")]
    Text {
        /// The extension.
        field: &'static str,
    },
}
