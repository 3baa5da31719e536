//! Whether part of a qcow2 image is missing at its end, as after half a download.
//!
//! The header of such an image is sound: what it lacks are clusters that its tables lead to. The
//! refcounts say which clusters are in use, so a look at those behind the file's end is enough for
//! a whole image: one read of the refcount table and one of a block. A refcount there proves
//! nothing yet (QEMU counts a cluster before it writes it, and may have died between), so then the
//! tables of the guest's disk are walked for a reference. What is read is bounded; if that isn't
//! enough to tell, the image passes, as it does with QEMU.
//!
//! Source: QEMU `docs/interop/qcow2.rst`, "Host cluster management" and "Cluster mapping".

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::Header;
use super::header_error::HeaderError;

/// How many bytes are read at most.
const BUDGET: u64 = 16 << 20;
/// How much of a table is read at once, in bytes.
const CHUNK: u64 = 64 << 10;

/// The offset in an entry of the refcount table.
const REFCOUNT_OFFSET: u64 = !0x1ff;
/// The offset in an entry of an L1 or L2 table.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros, whatever is at its offset.
const ZEROS: u64 = 1;

/// What of the image lies behind the end of its file of `file_len` bytes, if that can be told.
///
/// # Errors
///
/// Those of reading.
pub(super) fn cut_off(
    file: &File,
    header: &Header,
    file_len: u64,
) -> io::Result<Option<HeaderError>> {
    let mut image = Image { file, header, file_len, budget: BUDGET };
    match image.counts_outside()? {
        Counts::Inside => Ok(None),
        Counts::Lost(error) => Ok(Some(error)),
        Counts::Outside => image.reference_outside(),
    }
}

/// What the refcounts say of clusters behind the file's end.
#[derive(Debug)]
enum Counts {
    /// None is in use, or it can't be told.
    Inside,
    /// Some are in use.
    Outside,
    /// The refcounts themselves lie there.
    Lost(HeaderError),
}

#[derive(Debug)]
struct Image<'a> {
    file: &'a File,
    header: &'a Header,
    file_len: u64,
    budget: u64,
}

impl Image<'_> {
    fn counts_outside(&mut self) -> io::Result<Counts> {
        let cluster = 1_u64 << self.header.cluster_bits;
        let bits = 1_u64 << self.header.refcount_order;
        let of_a_block = cluster * 8 / bits;
        let first = self.file_len.div_ceil(cluster);
        let blocks = u64::from(self.header.refcount_table_clusters) * cluster / 8;
        let mut index = first / of_a_block;
        while index < blocks {
            let at = self.header.refcount_table_offset + index * 8;
            let Some(entries) = self.read(at, (blocks - index) * 8)? else { break };
            for entry in words(&entries) {
                let block = entry & REFCOUNT_OFFSET;
                if block >= self.file_len {
                    return Ok(Counts::Lost(self.outside("a refcount block", block)));
                }
                if block > 0 {
                    let skipped = first.saturating_sub(index * of_a_block) * bits;
                    match self.is_used(block + skipped / 8, cluster - skipped / 8, skipped % 8)? {
                        Some(false) => {}
                        Some(true) => return Ok(Counts::Outside),
                        None => return Ok(Counts::Inside),
                    }
                }
                index += 1;
            }
        }
        Ok(Counts::Inside)
    }

    /// Whether any refcount there isn't 0, but for some bits; none if too much was read.
    fn is_used(&mut self, mut at: u64, mut len: u64, mut skipped: u64) -> io::Result<Option<bool>> {
        while len > 0 {
            let Some(mut counts) = self.read(at, len)? else { return Ok(None) };
            if counts.is_empty() {
                break; // the file ends in the block
            }
            // Of refcounts in one byte, the first has the lowest bits.
            counts[0] = counts[0] >> skipped << skipped;
            if counts.iter().any(|byte| *byte != 0) {
                return Ok(Some(true));
            }
            (at, len, skipped) = (at + counts.len() as u64, len - counts.len() as u64, 0);
        }
        Ok(Some(false))
    }

    /// The first reference from the tables of the guest's disk to behind the file's end.
    fn reference_outside(&mut self) -> io::Result<Option<HeaderError>> {
        let (mut at, mut len) = (self.header.l1_table_offset, u64::from(self.header.l1_size) * 8);
        while len > 0 {
            let Some(entries) = self.read(at, len)? else { break };
            if entries.is_empty() {
                break;
            }
            for entry in words(&entries) {
                let table = entry & OFFSET;
                if table >= self.file_len {
                    return Ok(Some(self.outside("an L2 table", table)));
                }
                if table > 0 && !self.header.has_data_file() {
                    match self.data_outside(table)? {
                        Some(error) => return Ok(Some(error)),
                        None if self.budget == 0 => return Ok(None),
                        None => {}
                    }
                }
            }
            (at, len) = (at + entries.len() as u64, len - entries.len() as u64);
        }
        Ok(None)
    }

    fn data_outside(&mut self, table: u64) -> io::Result<Option<HeaderError>> {
        let cluster_bits = self.header.cluster_bits;
        let extended = self.header.extended_l2();
        let compressed = (1_u64 << (62 - (cluster_bits - 8))) - 1;
        let (mut at, mut len) = (table, 1_u64 << cluster_bits);
        while len > 0 {
            let Some(read) = self.read(at, len)? else { break };
            if read.is_empty() {
                break;
            }
            let entries: Vec<u64> = words(&read).collect();
            for entry in entries.chunks(if extended { 2 } else { 1 }) {
                let is_read = match entry {
                    // Which parts of the cluster are allocated.
                    [_, parts] => parts & u64::from(u32::MAX) != 0,
                    _ => entry[0] & ZEROS == 0,
                };
                let data = if entry[0] & COMPRESSED != 0 {
                    entry[0] & compressed
                } else if is_read {
                    entry[0] & OFFSET
                } else {
                    0
                };
                if data >= self.file_len {
                    return Ok(Some(self.outside("data of the guest", data)));
                }
            }
            (at, len) = (at + read.len() as u64, len - read.len() as u64);
        }
        Ok(None)
    }

    fn outside(&self, what: &'static str, offset: u64) -> HeaderError {
        HeaderError::CutOff { what, offset, file_len: self.file_len }
    }

    /// Up to `len` bytes from `at` on, in whole words; none if too much was read, and fewer if the
    /// file ends there.
    fn read(&mut self, at: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
        let len = len.min(CHUNK);
        if self.budget < len {
            self.budget = 0;
            return Ok(None);
        }
        self.budget -= len;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], at + length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes
        .chunks_exact(8)
        .map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
