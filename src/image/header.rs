//! The qcow2 header: a bounded parse of untrusted bytes.
//!
//! [`Header::parse`] decodes, [`Header::check`] judges: `inspect` shows what was decoded even of
//! an image that is refused. The checks are those of QEMU's `qcow2_do_open`, and stricter if
//! an image refers to bytes outside its file. Source: QEMU `docs/interop/qcow2.rst`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::Serialize;

use super::header_error::HeaderError;
use super::kind::Kind;
use super::layout::{
    BITMAPS, BITMAPS_LENGTH, CLUSTER_BITS, COMPRESSION_TYPE, CORRUPT, DATA_FILE, DIRTY,
    EXTENDED_L2, EXTENSION_BACKING_FORMAT, EXTENSION_BITMAPS, EXTENSION_DATA_FILE, EXTENSION_END,
    EXTENSION_LUKS, HEADER_LENGTH_V2, HEADER_LENGTH_V3, KNOWN_INCOMPATIBLE, LAZY_REFCOUNTS, MAGIC,
    MAX_BACKING_FORMAT, MAX_BACKING_NAME, MAX_BITMAP_DIRECTORY_BYTES, MAX_BITMAPS, MAX_L1_BYTES,
    MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS, MIN_SNAPSHOT_BYTES,
};
use super::overlay::feature_name;

/// How many bytes of an image are read at most; header, extensions and backing file name must
/// lie within them (QEMU writes less than 2 KiB).
pub const READ_LIMIT: usize = 64 << 10;

/// How the compressed clusters of an image are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionType {
    /// Deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What the header extensions say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// The external data file's name.
    pub data_file: Option<PathBuf>,
    /// Where the image's bitmaps are listed.
    pub bitmaps: Option<Bitmaps>,
    /// Whether there is a pointer to a LUKS header.
    pub luks: bool,
}

/// The bitmaps extension: dirty bitmaps that are kept in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bitmaps {
    /// How many there are.
    pub nb_bitmaps: u32,
    /// The list's length in bytes.
    pub bitmap_directory_size: u64,
    /// Where the list starts, in bytes.
    pub bitmap_directory_offset: u64,
}

/// A decoded qcow2 header. Fields carry the specification's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The backing file's name as it stands in the file, not checked for anything.
    pub backing_file: Option<PathBuf>,
    /// The cluster size is `1 << cluster_bits` bytes.
    pub cluster_bits: u32,
    /// The guest's disk in bytes.
    pub size: u64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: u32,
    /// Entries of the L1 table.
    pub l1_size: u32,
    /// Where the L1 table starts, in bytes.
    pub l1_table_offset: u64,
    /// Where the refcount table starts, in bytes.
    pub refcount_table_offset: u64,
    /// How many clusters the refcount table has.
    pub refcount_table_clusters: u32,
    /// How many internal snapshots the image has.
    pub nb_snapshots: u32,
    /// Where the snapshot table starts, in bytes.
    pub snapshots_offset: u64,
    /// Features that a reader must know.
    pub incompatible_features: u64,
    /// Features that a reader may ignore.
    pub compatible_features: u64,
    /// Features that a writer that doesn't know them must clear.
    pub autoclear_features: u64,
    /// A refcount has `1 << refcount_order` bits.
    pub refcount_order: u32,
    /// Bytes of the header without extensions.
    pub header_length: u32,
    /// 0 zlib, 1 zstd.
    pub compression_type: u8,
    /// The header extensions that matter here.
    pub extensions: Extensions,
}

impl Header {
    /// Decodes the header at the start of `bytes`, of which there are [`READ_LIMIT`] or, if
    /// the file is shorter, all.
    ///
    /// # Errors
    ///
    /// A [`HeaderError`] for what can't be decoded; what can be and isn't good is
    /// [`Header::check`]'s.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let truncated = || HeaderError::Truncated(bytes.len() as u64);
        let magic = *bytes.first_chunk::<4>().ok_or_else(truncated)?;
        if magic != MAGIC {
            return Err(Kind::of(bytes).map_or(HeaderError::Magic(magic), HeaderError::Other));
        }
        let u32_at = |at: usize| be_u32(bytes, at).ok_or_else(truncated);
        let u64_at = |at: usize| be_u64(bytes, at).ok_or_else(truncated);

        let version = u32_at(4)?;
        let cluster_bits = u32_at(20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(HeaderError::ClusterBits(cluster_bits));
        }
        let cluster_size = 1_u64 << cluster_bits;
        let header_length = match version {
            2 => HEADER_LENGTH_V2,
            3 => u32_at(100)?,
            other => return Err(HeaderError::Version(other)),
        };
        let v3 = version == 3;
        if v3 && !(u64::from(HEADER_LENGTH_V3)..=cluster_size).contains(&u64::from(header_length)) {
            return Err(HeaderError::HeaderLength(header_length));
        }
        let v3_u64 = |at| if v3 { u64_at(at) } else { Ok(0) };
        let has_compression_type = header_length > HEADER_LENGTH_V3;

        let header_area = cluster_size.min(bytes.len() as u64);
        let name_offset = u64_at(8)?;
        let name_len = u32_at(16)?;
        let backing_file = match name_offset {
            0 => None,
            offset => backing_file(bytes, offset, name_len, cluster_size)?,
        };
        let extensions_end = if name_offset == 0 { header_area } else { name_offset };
        Ok(Self {
            version,
            backing_file,
            cluster_bits,
            size: u64_at(24)?,
            crypt_method: u32_at(32)?,
            l1_size: u32_at(36)?,
            l1_table_offset: u64_at(40)?,
            refcount_table_offset: u64_at(48)?,
            refcount_table_clusters: u32_at(56)?,
            nb_snapshots: u32_at(60)?,
            snapshots_offset: u64_at(64)?,
            incompatible_features: v3_u64(72)?,
            compatible_features: v3_u64(80)?,
            autoclear_features: v3_u64(88)?,
            refcount_order: if v3 { u32_at(96)? } else { 4 },
            header_length,
            compression_type: if has_compression_type {
                *bytes.get(104).ok_or_else(truncated)?
            } else {
                0
            },
            extensions: extensions(bytes, u64::from(header_length), extensions_end)?,
        })
    }

    /// Says why an image with this header, in a file of `file_len` bytes, can't be a base image.
    ///
    /// What the image refers to (backing file, data file) is not judged here: that is a matter
    /// of permission.
    ///
    /// # Errors
    ///
    /// The first [`HeaderError`] in the order of the header's fields.
    pub fn check(&self, file_len: u64) -> Result<(), HeaderError> {
        self.check_features()?;
        if self.crypt_method != 0 {
            return Err(HeaderError::Encrypted(self.crypt_method));
        }
        if self.extensions.luks {
            return Err(HeaderError::StrayLuks);
        }
        if self.refcount_order > 6 {
            return Err(HeaderError::RefcountOrder(self.refcount_order));
        }
        self.check_size()?;
        self.check_tables(file_len)
    }

    /// The same without the mark of an image that was not closed in order, which QEMU repairs when
    /// it opens the image to write to it.
    #[cfg(feature = "vm")]
    pub(super) fn into_closed(self) -> Self {
        Self { incompatible_features: self.incompatible_features & !DIRTY, ..self }
    }

    /// Whether L2 entries are 128 bits wide and carry a bitmap of subclusters.
    #[must_use]
    pub fn extended_l2(&self) -> bool {
        self.incompatible_features & EXTENDED_L2 != 0
    }

    /// Whether a writer may leave the refcounts to the next check.
    #[must_use]
    pub fn lazy_refcounts(&self) -> bool {
        self.compatible_features & LAZY_REFCOUNTS != 0
    }

    /// Whether the guest's data lie in another file.
    #[must_use]
    pub fn has_data_file(&self) -> bool {
        self.incompatible_features & DATA_FILE != 0
    }

    /// The names of the incompatible features that are set; unknown bits by their number.
    #[must_use]
    pub fn incompatible_feature_names(&self) -> Vec<String> {
        (0..u64::BITS)
            .filter(|bit| self.incompatible_features >> bit & 1 == 1)
            .map(|bit| feature_name(bit).map_or_else(|| format!("bit {bit}"), str::to_owned))
            .collect()
    }

    /// How compressed clusters are compressed, if the field is known.
    #[must_use]
    pub fn compression(&self) -> Option<CompressionType> {
        match self.compression_type {
            0 => Some(CompressionType::Zlib),
            1 => Some(CompressionType::Zstd),
            _ => None,
        }
    }

    fn check_features(&self) -> Result<(), HeaderError> {
        let bits = self.incompatible_features;
        if bits & !KNOWN_INCOMPATIBLE != 0 {
            return Err(HeaderError::UnknownFeatures(bits & !KNOWN_INCOMPATIBLE));
        }
        if bits & CORRUPT != 0 {
            return Err(HeaderError::Corrupt);
        }
        if bits & DIRTY != 0 {
            return Err(HeaderError::Dirty);
        }
        if self.extended_l2() && self.cluster_bits < 14 {
            return Err(HeaderError::ExtendedL2(self.cluster_bits));
        }
        let bit = bits & COMPRESSION_TYPE != 0;
        let expected = self.compression().map(|kind| kind != CompressionType::Zlib);
        if expected != Some(bit) {
            return Err(HeaderError::Compression { kind: self.compression_type, bit });
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), HeaderError> {
        let l2_entry_bits = if self.extended_l2() { 4 } else { 3 };
        // At most 2^(21 - 3 + 21) bytes an entry and 2^22 entries: within 64 bits.
        let bytes_per_l1_entry = 1_u64 << (2 * self.cluster_bits - l2_entry_bits);
        let limit = (MAX_L1_BYTES / 8 * bytes_per_l1_entry).min(i64::MAX as u64);
        if self.size > limit {
            return Err(HeaderError::Size { size: self.size, limit });
        }
        let need = self.size.div_ceil(bytes_per_l1_entry);
        if u64::from(self.l1_size) < need {
            return Err(HeaderError::L1Size { have: self.l1_size, need });
        }
        Ok(())
    }

    fn check_tables(&self, file_len: u64) -> Result<(), HeaderError> {
        let cluster_size = 1_u64 << self.cluster_bits;
        let table = |field, offset: u64, len: u64| {
            if !offset.is_multiple_of(cluster_size) {
                return Err(HeaderError::Unaligned { field, offset });
            }
            match offset.checked_add(len) {
                Some(end) if end <= file_len => Ok(()),
                _ => Err(HeaderError::OutsideFile { field, offset, len, file_len }),
            }
        };
        let at_most = |field, value: u64, limit: u64| {
            if value > limit { Err(HeaderError::TooMany { field, value, limit }) } else { Ok(()) }
        };

        let l1_bytes = u64::from(self.l1_size) * 8;
        at_most("l1_size", l1_bytes / 8, MAX_L1_BYTES / 8)?;
        table("l1_table_offset", self.l1_table_offset, l1_bytes)?;

        let refcount_clusters = u64::from(self.refcount_table_clusters);
        at_most(
            "refcount_table_clusters",
            refcount_clusters,
            (MAX_REFCOUNT_TABLE_BYTES / cluster_size).max(1),
        )?;
        if refcount_clusters == 0 {
            return Err(HeaderError::Missing { field: "refcount_table_clusters" });
        }
        if self.refcount_table_offset == 0 {
            return Err(HeaderError::Missing { field: "refcount_table_offset" });
        }
        table(
            "refcount_table_offset",
            self.refcount_table_offset,
            refcount_clusters * cluster_size,
        )?;

        at_most("nb_snapshots", self.nb_snapshots.into(), MAX_SNAPSHOTS.into())?;
        if self.nb_snapshots > 0 && self.snapshots_offset == 0 {
            return Err(HeaderError::Missing { field: "snapshots_offset" });
        }
        let least = u64::from(self.nb_snapshots) * MIN_SNAPSHOT_BYTES;
        table("snapshots_offset", self.snapshots_offset, least)?;

        // Without the feature bit the extension is out of date, and not read.
        let has_bitmaps = self.autoclear_features & BITMAPS != 0;
        let Some(bitmaps) = self.extensions.bitmaps.filter(|_| has_bitmaps) else { return Ok(()) };
        at_most("nb_bitmaps", bitmaps.nb_bitmaps.into(), MAX_BITMAPS.into())?;
        if bitmaps.nb_bitmaps == 0 {
            return Err(HeaderError::Missing { field: "nb_bitmaps" });
        }
        let len = bitmaps.bitmap_directory_size;
        at_most("bitmap_directory_size", len, MAX_BITMAP_DIRECTORY_BYTES)?;
        table("bitmap_directory_offset", bitmaps.bitmap_directory_offset, len)
    }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_be_bytes)
}

/// The bytes from `offset` on, if all of them lie before `limit` and within `bytes`.
fn area<'a>(
    field: &'static str,
    bytes: &'a [u8],
    offset: u64,
    len: u64,
    limit: u64,
) -> Result<&'a [u8], HeaderError> {
    let limit = limit.min(bytes.len() as u64);
    let outside = HeaderError::OutsideHeader { field, offset, len, limit };
    match offset.checked_add(len) {
        Some(end) if end <= limit => {
            let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
            range.and_then(|(from, to)| bytes.get(from..to)).ok_or(outside)
        }
        _ => Err(outside),
    }
}

fn backing_file(
    bytes: &[u8],
    offset: u64,
    len: u32,
    cluster: u64,
) -> Result<Option<PathBuf>, HeaderError> {
    if len > MAX_BACKING_NAME {
        return Err(HeaderError::TooMany {
            field: "backing_file_size",
            value: len.into(),
            limit: MAX_BACKING_NAME.into(),
        });
    }
    let field = "backing_file_offset";
    let name = area(field, bytes, offset, len.into(), cluster)?;
    if name.contains(&0) {
        return Err(HeaderError::Nul { field });
    }
    Ok(Some(name).filter(|name| !name.is_empty()).map(path))
}

fn extensions(bytes: &[u8], mut at: u64, end: u64) -> Result<Extensions, HeaderError> {
    let mut found = Extensions::default();
    while at < end {
        let head = area("header extension", bytes, at, 8, end)?;
        let kind = be_u32(head, 0).unwrap_or(EXTENSION_END);
        let len = u64::from(be_u32(head, 4).unwrap_or(0));
        // As QEMU does, also of the last one, whose length should be 0.
        let data = area("header extension", bytes, at + 8, len, end)?;
        match kind {
            EXTENSION_END => break,
            EXTENSION_BACKING_FORMAT => found.backing_format = Some(text(data)?),
            EXTENSION_DATA_FILE => found.data_file = Some(path(data)),
            EXTENSION_BITMAPS => found.bitmaps = Some(bitmaps(data)?),
            EXTENSION_LUKS => found.luks = true,
            _ => {}
        }
        at += 8 + len.next_multiple_of(8);
    }
    Ok(found)
}

fn bitmaps(data: &[u8]) -> Result<Bitmaps, HeaderError> {
    let field = "bitmaps extension";
    let parse = || {
        let reserved = be_u32(data, 4)?;
        let found = Bitmaps {
            nb_bitmaps: be_u32(data, 0)?,
            bitmap_directory_size: be_u64(data, 8)?,
            bitmap_directory_offset: be_u64(data, 16)?,
        };
        (data.len() as u64 == BITMAPS_LENGTH && reserved == 0).then_some(found)
    };
    parse().ok_or(HeaderError::Extension { field, len: data.len() as u64 })
}

fn path(name: &[u8]) -> PathBuf {
    OsStr::from_bytes(name).into()
}

fn text(data: &[u8]) -> Result<String, HeaderError> {
    match std::str::from_utf8(data) {
        Ok(text) if data.len() <= MAX_BACKING_FORMAT => Ok(text.to_owned()),
        _ => Err(HeaderError::Text { field: "backing format extension" }),
    }
}
