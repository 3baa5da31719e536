//! The parser of qcow2 headers, on any bytes.
//!
//! The input is the start of an image, and all of it. It is judged also as the start of a longer
//! file, whose other bytes are zero, so that the tables that a header names can lie within it;
//! the suite shows the same files to `qemu-img info` (`integration::seeds`).

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use overlay_pool::image::{Format, Header, Overlay, Profile, READ_LIMIT};

/// The length of the longer file.
const FILE_LEN: u64 = 64 << 20;

/// Limits of QEMU's, written down a second time.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_NAME: usize = 1023;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = accepted(bytes, bytes.len() as u64) {
        // A file that grew at its end is as good as before.
        assert_eq!(header.check(FILE_LEN.max(bytes.len() as u64)), Ok(()));
    }
    let mut start = bytes[..bytes.len().min(READ_LIMIT)].to_vec();
    start.resize(READ_LIMIT, 0);
    if let Some(header) = accepted(&start, FILE_LEN) {
        lay_out_over(&header);
    }
});

/// The header, where it is good; it then keeps what the rest of the program relies on.
fn accepted(start: &[u8], file_len: u64) -> Option<Header> {
    let header = Header::parse(start).ok()?;
    let _ = (header.incompatible_feature_names(), header.compression());
    let backing = header.backing_file.as_deref();
    let name = backing.map_or(0, |name| name.as_os_str().len());
    assert!(name <= MAX_NAME, "a backing file name of {name} bytes");
    assert!((9..22).contains(&header.cluster_bits), "clusters of 2^{} bytes", header.cluster_bits);
    header.check(file_len).ok()?;

    assert!(matches!(header.version, 2 | 3), "version {}", header.version);
    assert!(header.size <= i64::MAX as u64, "{} bytes are no file's offset", header.size);
    assert!(u64::from(header.l1_size) * 8 <= MAX_L1_BYTES, "{} L1 entries", header.l1_size);
    assert!(header.refcount_order <= 6, "refcounts of 2^{} bits", header.refcount_order);
    assert_eq!(header.crypt_method, 0, "an encrypted image");
    let cluster = 1_u64 << header.cluster_bits;
    for (offset, len) in [
        (header.l1_table_offset, u64::from(header.l1_size) * 8),
        (header.refcount_table_offset, u64::from(header.refcount_table_clusters) * cluster),
        (header.snapshots_offset, u64::from(header.nb_snapshots) * 40),
    ] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= file_len), "{offset} + {len}");
        assert_eq!(offset % cluster, 0, "a table within a cluster");
    }
    let l2_entry = if header.extended_l2() { 16 } else { 8 };
    let mapped = u128::from(header.l1_size) * u128::from(cluster / l2_entry * cluster);
    assert!(u128::from(header.size) <= mapped, "{} bytes, {mapped} mapped", header.size);
    Some(header)
}

/// An overlay of the image, and one of what the image itself names, read back as they were meant.
fn lay_out_over(header: &Header) {
    let backing = header.backing_file.as_deref().unwrap_or(Path::new("/images/base.qcow2"));
    for profile in [Profile::Qemu, Profile::Portable] {
        let Ok(overlay) = Overlay::new(backing, Format::Qcow2, header.size, profile) else {
            assert!(header.size > profile.max_virtual_size(), "{backing:?}");
            continue;
        };
        let ours = Header::parse(&overlay.extents()[0].bytes).expect("a header of our own");
        assert_eq!(ours.check(overlay.file_len()), Ok(()));
        assert_eq!(ours.size, header.size.next_multiple_of(512));
        assert_eq!(ours.backing_file.as_deref(), Some(backing));
        assert_eq!(ours.extensions.backing_format.as_deref(), Some("qcow2"));
    }
}
