//! Small qcow2 images made without QEMU, and damaged ones.

use std::path::Path;

/// A sound, empty version 3 image without a backing file, as bytes; fields can be overwritten.
#[derive(Clone)]
pub(crate) struct Image(pub(crate) Vec<u8>);

/// Offsets of header fields, by the specification's names.
pub(crate) mod field {
    pub(crate) const VERSION: usize = 4;
    pub(crate) const BACKING_FILE_OFFSET: usize = 8;
    pub(crate) const BACKING_FILE_SIZE: usize = 16;
    pub(crate) const CLUSTER_BITS: usize = 20;
    pub(crate) const SIZE: usize = 24;
    pub(crate) const CRYPT_METHOD: usize = 32;
    pub(crate) const L1_SIZE: usize = 36;
    pub(crate) const L1_TABLE_OFFSET: usize = 40;
    pub(crate) const REFCOUNT_TABLE_OFFSET: usize = 48;
    pub(crate) const REFCOUNT_TABLE_CLUSTERS: usize = 56;
    pub(crate) const NB_SNAPSHOTS: usize = 60;
    pub(crate) const SNAPSHOTS_OFFSET: usize = 64;
    pub(crate) const INCOMPATIBLE_FEATURES: usize = 72;
    pub(crate) const AUTOCLEAR_FEATURES: usize = 88;
    pub(crate) const REFCOUNT_ORDER: usize = 96;
    pub(crate) const HEADER_LENGTH: usize = 100;
    pub(crate) const COMPRESSION_TYPE: usize = 104;
    pub(crate) const EXTENSIONS: usize = 112;
}

pub(crate) const CLUSTER: usize = 1 << 16;
/// What [`Image::with_data`] holds.
pub(crate) const PATTERN: u8 = 0x5a;

impl Image {
    /// A disk of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        // Each entry of the L1 table is about a cluster of references to clusters.
        let l1_entries = size.div_ceil((CLUSTER * CLUSTER / 8) as u64).max(1);
        let l1_size = u32::try_from(l1_entries).expect("a small image");
        let mut image = Self(vec![0; 3 * CLUSTER + 8 * l1_size as usize]);
        image.0[..4].copy_from_slice(b"QFI\xfb");
        image
            .u32(field::VERSION, 3)
            .u32(field::CLUSTER_BITS, 16)
            .u64(field::SIZE, size)
            .u32(field::L1_SIZE, l1_size)
            .u64(field::L1_TABLE_OFFSET, 3 * CLUSTER as u64)
            .u64(field::REFCOUNT_TABLE_OFFSET, CLUSTER as u64)
            .u32(field::REFCOUNT_TABLE_CLUSTERS, 1)
            .u32(field::REFCOUNT_ORDER, 4)
            .u32(field::HEADER_LENGTH, 112)
            .u64(CLUSTER, 2 * CLUSTER as u64)
            .u64(2 * CLUSTER, 0x0001_0001_0001_0001);
        image
    }

    /// A disk of `size` bytes that holds data: [`PATTERN`] in its first cluster.
    pub(crate) fn with_data(size: u64) -> Self {
        const COPIED: u64 = 1 << 63;
        let mut image = Self::new(size);
        image.0.resize(5 * CLUSTER, 0);
        image.0.resize(6 * CLUSTER, PATTERN);
        image
            .u64(3 * CLUSTER, COPIED | (4 * CLUSTER as u64))
            .u64(4 * CLUSTER, COPIED | (5 * CLUSTER as u64))
            .u32(2 * CLUSTER + 8, 0x0001_0001);
        image
    }

    pub(crate) fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes(at, &value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.bytes(at, &value.to_be_bytes())
    }

    pub(crate) fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Adds a backing file name after the header.
    pub(crate) fn backing(&mut self, name: &[u8]) -> &mut Self {
        let at = field::EXTENSIONS + 8; // after the end of the extensions
        self.u64(field::BACKING_FILE_OFFSET, at as u64)
            .u32(field::BACKING_FILE_SIZE, u32::try_from(name.len()).expect("a short name"))
            .bytes(at, name)
    }

    /// Adds a bitmaps extension, and the feature bit that says that it holds.
    pub(crate) fn bitmaps(&mut self, count: u32, directory_size: u64, offset: u64) -> &mut Self {
        let at = field::EXTENSIONS;
        self.u64(field::AUTOCLEAR_FEATURES, 1)
            .u32(at, 0x2385_2875)
            .u32(at + 4, 24)
            .u32(at + 8, count)
            .u64(at + 16, directory_size)
            .u64(at + 24, offset)
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.0).expect("the image is written");
    }
}
