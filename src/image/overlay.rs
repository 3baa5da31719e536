//! The bytes of an empty overlay.
//!
//! Source for all layouts and field names: QEMU `docs/interop/qcow2.rst`.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{
    EXTENDED_L2, EXTENSION_BACKING_FORMAT, EXTENSION_END, EXTENSION_FEATURE_NAMES, HEADER_LENGTH,
    LAZY_REFCOUNTS, MAGIC, MAX_BACKING_NAME, MAX_L1_BYTES, SECTOR,
};

/// The format of a base image, as the overlay records it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A qcow2 image, version 2 or 3.
    #[default]
    Qcow2,
    /// The guest's bytes and nothing else. Never probed for: only a caller can declare it.
    Raw,
}

impl Format {
    /// The name that QEMU knows the format by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which qcow2 features an overlay uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// For QEMU: 128 KiB clusters, extended L2 entries (4 KiB subclusters), lazy refcounts.
    #[default]
    Qemu,
    /// For other readers (Cloud Hypervisor, libkrun, qcow2-rs): 64 KiB clusters, no extended L2
    /// entries, no lazy refcounts.
    Portable,
}

impl Profile {
    /// The cluster size in bytes, as a power of two.
    #[must_use]
    pub fn cluster_bits(self) -> u32 {
        match self {
            Self::Qemu => 17,
            Self::Portable => 16,
        }
    }

    /// The cluster size in bytes.
    #[must_use]
    pub fn cluster_size(self) -> u64 {
        1 << self.cluster_bits()
    }

    /// Whether L2 entries are 128 bits wide and carry a bitmap of subclusters.
    #[must_use]
    pub fn extended_l2(self) -> bool {
        self == Self::Qemu
    }

    /// Whether a writer may leave the refcounts to the next check.
    #[must_use]
    pub fn lazy_refcounts(self) -> bool {
        self == Self::Qemu
    }

    /// How many bytes of the guest's disk one L1 entry covers.
    #[must_use]
    pub fn bytes_per_l1_entry(self) -> u64 {
        let l2_entry_size = if self.extended_l2() { 16 } else { 8 };
        self.cluster_size() / l2_entry_size * self.cluster_size()
    }

    /// The largest virtual size in bytes: QEMU reads an L1 table of at most 32 MiB.
    #[must_use]
    pub fn max_virtual_size(self) -> u64 {
        MAX_L1_BYTES / 8 * self.bytes_per_l1_entry()
    }

    /// The profile as `qemu-img create -o` takes it.
    #[must_use]
    pub fn qemu_img_options(self) -> String {
        let on_off = |on| if on { "on" } else { "off" };
        format!(
            "cluster_size={},extended_l2={},lazy_refcounts={}",
            self.cluster_size(),
            on_off(self.extended_l2()),
            on_off(self.lazy_refcounts()),
        )
    }
}

/// What overlays shall be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OverlayOptions {
    /// Which qcow2 features they use.
    pub profile: Profile,
    /// The size of the guest's disk in bytes; the base image's if none is given, and never
    /// smaller.
    pub virtual_size: Option<u64>,
}

/// Why no overlay can be made of these arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// A qcow2 header holds a backing file name of 1 to 1023 bytes.
    #[error(
        "the backing file name has {0} bytes, a qcow2 header holds 1 to {MAX_BACKING_NAME}; use a shorter path"
    )]
    BackingNameLength(usize),
    /// A name with a NUL byte, which no file has.
    #[error("the backing file name has a NUL byte")]
    BackingNameNul,
    /// The disk is larger than the L1 table can map.
    #[error("a virtual size of {size} bytes is over the limit of {limit} bytes; ask for less")]
    TooLarge {
        /// The size that was asked for, in bytes.
        size: u64,
        /// The largest size of this profile, in bytes.
        limit: u64,
    },
    /// An overlay smaller than its base would cut the disk off.
    #[error(
        "a virtual size of {size} bytes is smaller than the base image's {base} bytes; ask for at least that"
    )]
    SmallerThanBase {
        /// The size that was asked for, in bytes.
        size: u64,
        /// The base image's size, in bytes.
        base: u64,
    },
}

/// The cluster each part of an empty overlay starts in.
const REFCOUNT_TABLE: u64 = 1;
const REFCOUNT_BLOCK: u64 = 2;
const L1_TABLE: u64 = 3;

/// A run of bytes at its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// What stands there.
    pub bytes: Vec<u8>,
}

/// An empty overlay: what it says of its base, and the bytes that say it.
///
/// The same arguments always give the same bytes, and they are those that `qemu-img create` of
/// QEMU 10.0 writes. What is zero in the file is in no extent, so that the file stays sparse.
///
/// # Example
///
/// ```
/// use overlay_pool::image::{Format, Overlay, Profile};
///
/// let overlay = Overlay::new("/images/base.qcow2".as_ref(), Format::Qcow2, 1 << 30, Profile::Qemu)?;
/// assert_eq!(overlay.file_len(), 0x60000 + 8);
/// assert_eq!(&overlay.extents()[0].bytes[..4], b"QFI\xfb");
/// # Ok::<(), overlay_pool::image::OverlayError>(())
/// ```
#[derive(Debug)]
pub struct Overlay {
    backing: PathBuf,
    format: Format,
    virtual_size: u64,
    profile: Profile,
    extents: [Extent; 3],
    file_len: u64,
}

impl Overlay {
    /// Lays out an empty overlay of `virtual_size` bytes (rounded up to a sector) over `backing`.
    ///
    /// # Errors
    ///
    /// [`OverlayError::BackingNameLength`], [`OverlayError::BackingNameNul`] and
    /// [`OverlayError::TooLarge`].
    pub fn new(
        backing: &Path,
        format: Format,
        virtual_size: u64,
        profile: Profile,
    ) -> Result<Self, OverlayError> {
        let name = backing.as_os_str().as_bytes();
        if name.is_empty() || name.len() > MAX_BACKING_NAME as usize {
            return Err(OverlayError::BackingNameLength(name.len()));
        }
        if name.contains(&0) {
            return Err(OverlayError::BackingNameNul);
        }
        let limit = profile.max_virtual_size();
        if virtual_size > limit {
            return Err(OverlayError::TooLarge { size: virtual_size, limit });
        }
        let virtual_size = virtual_size.next_multiple_of(SECTOR);
        let l1_entries = virtual_size.div_ceil(profile.bytes_per_l1_entry());
        let cluster = profile.cluster_size();
        let used_clusters = L1_TABLE + (l1_entries * 8).div_ceil(cluster);
        let refcounts = (0..used_clusters).flat_map(|_| 1u16.to_be_bytes()).collect();
        Ok(Self {
            backing: backing.to_owned(),
            format,
            virtual_size,
            profile,
            extents: [
                Extent {
                    offset: 0,
                    bytes: header(name, format, virtual_size, l1_entries, profile),
                },
                Extent {
                    offset: REFCOUNT_TABLE * cluster,
                    bytes: (REFCOUNT_BLOCK * cluster).to_be_bytes().to_vec(),
                },
                Extent { offset: REFCOUNT_BLOCK * cluster, bytes: refcounts },
            ],
            // QEMU ends the file with the last L1 entry, not with its cluster.
            file_len: L1_TABLE * cluster + l1_entries * 8,
        })
    }

    /// The backing file name, as the header records it.
    #[must_use]
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// The backing file's format, as the header records it.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The size of the guest's disk in bytes, a multiple of 512.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Whether a disk of `virtual_size` bytes, rounded up to a sector, is this one's size.
    #[must_use]
    pub fn is_of(&self, virtual_size: u64) -> bool {
        virtual_size.div_ceil(SECTOR) == self.virtual_size / SECTOR
    }

    /// Which features the overlay uses.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Everything in the file that is not zero, by ascending offset.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The length of the file in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }
}

/// The feature name table: kind (0 incompatible, 1 compatible, 2 autoclear), bit, name.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The name of an incompatible feature bit, as QEMU's feature name table has it.
///
/// # Example
///
/// ```
/// assert_eq!(overlay_pool::image::feature_name(4), Some("extended L2 entries"));
/// ```
#[must_use]
pub fn feature_name(incompatible_bit: u32) -> Option<&'static str> {
    FEATURES
        .iter()
        .find(|(kind, bit, _)| *kind == 0 && u32::from(*bit) == incompatible_bit)
        .map(|(_, _, name)| *name)
}

/// The header cluster: header, extensions, backing file name.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a name has 1023 bytes at most, an L1 table 2^22 entries"
)]
fn header(name: &[u8], format: Format, size: u64, l1_entries: u64, profile: Profile) -> Vec<u8> {
    let cluster = profile.cluster_size();
    let extensions = extensions(format);
    let name_offset = u64::from(HEADER_LENGTH) + extensions.len() as u64;
    let incompatible = if profile.extended_l2() { EXTENDED_L2 } else { 0 };
    let compatible = if profile.lazy_refcounts() { LAZY_REFCOUNTS } else { 0 };
    // A disk of size 0 has no L1 table.
    let l1_offset = if l1_entries == 0 { 0 } else { L1_TABLE * cluster };

    [
        MAGIC.as_slice(),
        &3_u32.to_be_bytes(), // version
        &name_offset.to_be_bytes(),
        &(name.len() as u32).to_be_bytes(),
        &profile.cluster_bits().to_be_bytes(),
        &size.to_be_bytes(),
        &0_u32.to_be_bytes(), // crypt_method: none
        &(l1_entries as u32).to_be_bytes(),
        &l1_offset.to_be_bytes(),
        &(REFCOUNT_TABLE * cluster).to_be_bytes(),
        &1_u32.to_be_bytes(), // refcount_table_clusters
        &0_u32.to_be_bytes(), // nb_snapshots
        &0_u64.to_be_bytes(), // snapshots_offset
        &incompatible.to_be_bytes(),
        &compatible.to_be_bytes(),
        &0_u64.to_be_bytes(), // autoclear_features
        &4_u32.to_be_bytes(), // refcount_order: 16 bits
        &HEADER_LENGTH.to_be_bytes(),
        &0_u64.to_be_bytes(), // compression_type: zlib; padding
        &extensions,
        name,
    ]
    .concat()
}

#[expect(clippy::cast_possible_truncation, reason = "the longest extension has 384 bytes")]
fn extensions(format: Format) -> Vec<u8> {
    let mut names = Vec::with_capacity(FEATURES.len() * 48);
    for (kind, bit, name) in FEATURES {
        let mut entry = [0; 48];
        entry[0] = kind;
        entry[1] = bit;
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
        names.extend_from_slice(&entry);
    }
    let mut out = Vec::new();
    for (kind, data) in [
        (EXTENSION_BACKING_FORMAT, format.as_str().as_bytes()),
        (EXTENSION_FEATURE_NAMES, &names),
        (EXTENSION_END, &[]),
    ] {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}
