//! The numbers of the qcow2 format: lengths, limits, bits and types of extensions.
//!
//! Source: QEMU `docs/interop/qcow2.rst`, and `block/qcow2.h` for the limits that QEMU sets.

use std::ops::Range;

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The header's length in bytes: of version 2, of version 3 at least, and with the compression type
/// and its padding.
pub(super) const HEADER_LENGTH_V2: u32 = 72;
pub(super) const HEADER_LENGTH_V3: u32 = 104;
pub(super) const HEADER_LENGTH: u32 = 112;
/// The unit of a virtual size, in bytes.
pub(super) const SECTOR: u64 = 512;

pub(super) const CLUSTER_BITS: Range<u32> = 9..22;
pub(super) const MAX_BACKING_NAME: u32 = 1023;
pub(super) const MAX_BACKING_FORMAT: usize = 15;
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
pub(super) const MAX_SNAPSHOTS: u32 = 65536;
pub(super) const MIN_SNAPSHOT_BYTES: u64 = 40;
pub(super) const MAX_BITMAPS: u32 = 65535;
pub(super) const MAX_BITMAP_DIRECTORY_BYTES: u64 = 1 << 30;
pub(super) const BITMAPS_LENGTH: u64 = 24;

// Incompatible features.
pub(super) const DIRTY: u64 = 1 << 0;
pub(super) const CORRUPT: u64 = 1 << 1;
pub(super) const DATA_FILE: u64 = 1 << 2;
pub(super) const COMPRESSION_TYPE: u64 = 1 << 3;
pub(super) const EXTENDED_L2: u64 = 1 << 4;
pub(super) const KNOWN_INCOMPATIBLE: u64 =
    DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
// Compatible features.
pub(super) const LAZY_REFCOUNTS: u64 = 1 << 0;
// Autoclear features.
pub(super) const BITMAPS: u64 = 1 << 0;

pub(super) const EXTENSION_END: u32 = 0;
pub(super) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
pub(super) const EXTENSION_BITMAPS: u32 = 0x2385_2875;
pub(super) const EXTENSION_LUKS: u32 = 0x0537_be77;
