//! The parser of untrusted headers: each field that is judged, and bytes that are not a header.

use overlay_pool::image::{Header, HeaderError};
use proptest::prelude::*;
use rstest::Context;

use crate::harness::prelude::*;
use crate::harness::qcow2::{CLUSTER, Image, field};

fn judge(image: &Image) -> Result<Header, HeaderError> {
    let header = Header::parse(&image.0)?;
    header.check(image.0.len() as u64)?;
    Ok(header)
}

#[apply(test)]
fn sound_image_is_good() {
    let header = judge(&Image::new(1 << 20)).expect("a sound image");
    assert_eq!((header.version, header.size, header.backing_file), (3, 1 << 20, None));
}

#[apply(test)]
#[case::version_1(|i: &mut Image| { i.u32(field::VERSION, 1); })]
#[case::version_4(|i: &mut Image| { i.u32(field::VERSION, 4); })]
#[case::magic(|i: &mut Image| { i.bytes(0, b"QFI\xfa"); })]
#[case::cluster_bits_8(|i: &mut Image| { i.u32(field::CLUSTER_BITS, 8); })]
#[case::cluster_bits_22(|i: &mut Image| { i.u32(field::CLUSTER_BITS, 22); })]
#[case::cluster_bits_max(|i: &mut Image| { i.u32(field::CLUSTER_BITS, u32::MAX); })]
#[case::header_length_103(|i: &mut Image| { i.u32(field::HEADER_LENGTH, 103); })]
#[case::header_length_over_cluster(|i: &mut Image| { i.u32(field::HEADER_LENGTH, 65537); })]
#[case::unknown_feature(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 5); })]
#[case::unknown_feature_63(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 63); })]
#[case::dirty(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1); })]
#[case::corrupt(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 2); })]
#[case::encrypted_aes(|i: &mut Image| { i.u32(field::CRYPT_METHOD, 1); })]
#[case::encrypted_luks(|i: &mut Image| { i.u32(field::CRYPT_METHOD, 2); })]
#[case::zstd_without_bit(|i: &mut Image| { i.bytes(field::COMPRESSION_TYPE, &[1]); })]
#[case::bit_without_zstd(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 3); })]
#[case::compression_2(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 3).bytes(field::COMPRESSION_TYPE, &[2]); })]
#[case::small_extended_l2(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 4).u32(field::CLUSTER_BITS, 13); })]
#[case::refcount_order_7(|i: &mut Image| { i.u32(field::REFCOUNT_ORDER, 7); })]
#[case::size_over_limit(|i: &mut Image| { i.u64(field::SIZE, u64::MAX); })]
#[case::size_over_l1(|i: &mut Image| { i.u64(field::SIZE, (512 << 20) + 1); })]
#[case::l1_size_over_limit(|i: &mut Image| { i.u32(field::L1_SIZE, (4 << 20) + 1); })]
#[case::l1_outside(|i: &mut Image| { i.u64(field::L1_TABLE_OFFSET, 4 * CLUSTER as u64); })]
#[case::l1_at_the_end_of_time(|i: &mut Image| { i.u64(field::L1_TABLE_OFFSET, u64::MAX - 0xffff); })]
#[case::l1_unaligned(|i: &mut Image| { i.u64(field::L1_TABLE_OFFSET, 512); })]
#[case::l1_one_entry_too_long(|i: &mut Image| { i.u32(field::L1_SIZE, 2); })]
#[case::no_refcount_table(|i: &mut Image| { i.u32(field::REFCOUNT_TABLE_CLUSTERS, 0); })]
#[case::refcount_table_at_0(|i: &mut Image| { i.u64(field::REFCOUNT_TABLE_OFFSET, 0); })]
#[case::refcount_table_unaligned(|i: &mut Image| { i.u64(field::REFCOUNT_TABLE_OFFSET, 1); })]
#[case::refcount_table_outside(|i: &mut Image| { i.u64(field::REFCOUNT_TABLE_OFFSET, 3 * CLUSTER as u64); })]
#[case::refcount_table_too_long(|i: &mut Image| { i.u32(field::REFCOUNT_TABLE_CLUSTERS, 129); })]
#[case::snapshots_over_limit(|i: &mut Image| { i.u32(field::NB_SNAPSHOTS, 65537); })]
#[case::snapshots_outside(|i: &mut Image| { i.u32(field::NB_SNAPSHOTS, 1).u64(field::SNAPSHOTS_OFFSET, 8 * CLUSTER as u64); })]
#[case::snapshots_unaligned(|i: &mut Image| { i.u32(field::NB_SNAPSHOTS, 1).u64(field::SNAPSHOTS_OFFSET, 8); })]
#[case::snapshots_over_the_header(|i: &mut Image| { i.u32(field::NB_SNAPSHOTS, 1); })]
#[case::bitmaps_too_short(|i: &mut Image| { i.bitmaps(1, 24, CLUSTER as u64).u32(field::EXTENSIONS + 4, 23); })]
#[case::bitmaps_too_long(|i: &mut Image| { i.bitmaps(1, 24, CLUSTER as u64).u32(field::EXTENSIONS + 4, 25); })]
#[case::bitmaps_reserved(|i: &mut Image| { i.bitmaps(1, 24, CLUSTER as u64).u32(field::EXTENSIONS + 12, 1); })]
#[case::bitmaps_none(|i: &mut Image| { i.bitmaps(0, 24, CLUSTER as u64); })]
#[case::bitmaps_over_limit(|i: &mut Image| { i.bitmaps(65536, 24, CLUSTER as u64); })]
#[case::bitmaps_directory_over_limit(|i: &mut Image| { i.bitmaps(1, (1 << 30) + 1, CLUSTER as u64); })]
#[case::bitmaps_directory_outside(|i: &mut Image| { i.bitmaps(1, 24, 4 * CLUSTER as u64); })]
#[case::bitmaps_directory_unaligned(|i: &mut Image| { i.bitmaps(1, 24, 8); })]
#[case::luks_without_encryption(|i: &mut Image| { i.u32(field::EXTENSIONS, 0x0537_be77); })]
#[case::backing_name_too_long(|i: &mut Image| { i.backing(b"base").u32(field::BACKING_FILE_SIZE, 1024); })]
#[case::backing_name_outside(|i: &mut Image| { i.backing(b"base").u64(field::BACKING_FILE_OFFSET, CLUSTER as u64 - 3); })]
#[case::backing_name_far_outside(|i: &mut Image| { i.backing(b"base").u64(field::BACKING_FILE_OFFSET, u64::MAX - 1); })]
#[case::extension_too_long(|i: &mut Image| { i.u32(field::EXTENSIONS, 0x1234).u32(field::EXTENSIONS + 4, 1 << 16); })]
#[case::backing_name_with_nul(|i: &mut Image| { i.backing(b"ba\0e"); })]
#[case::extension_end_too_long(|i: &mut Image| { i.u32(field::EXTENSIONS + 4, 1 << 24); })]
#[case::extension_longest(|i: &mut Image| { i.u32(field::EXTENSIONS, 0x1234).u32(field::EXTENSIONS + 4, u32::MAX); })]
#[case::backing_format_too_long(|i: &mut Image| { i.u32(field::EXTENSIONS, 0xe279_2aca).u32(field::EXTENSIONS + 4, 16).bytes(field::EXTENSIONS + 8, b"0123456789abcdef"); })]
#[case::backing_format_not_text(|i: &mut Image| { i.u32(field::EXTENSIONS, 0xe279_2aca).u32(field::EXTENSIONS + 4, 1).bytes(field::EXTENSIONS + 8, b"\xff"); })]
fn refused_with_field_and_reason(#[context] context: Context, #[case] damage: fn(&mut Image)) {
    let mut image = Image::new(1 << 20);
    damage(&mut image);
    let error = judge(&image).expect_err("a damaged header");
    insta::with_settings!({ snapshot_suffix => context.description.expect("a named case") }, {
        insta::assert_snapshot!(error);
    });
}

#[apply(test)]
fn a_file_that_ends_anywhere_is_refused_or_good(#[values(2, 3)] version: u32) {
    let mut image = Image::new(1 << 20);
    image.u32(field::VERSION, version);
    for length in (0..200).chain([CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 3 * CLUSTER + 7]) {
        let short = Image(image.0[..length].to_vec());
        judge(&short).expect_err(&format!("{length} bytes"));
    }
    judge(&image).expect("all bytes");
}

#[apply(test)]
fn version_2_has_no_features() {
    let mut image = Image::new(1 << 20);
    image.u32(field::VERSION, 2).u64(field::INCOMPATIBLE_FEATURES, 0);
    let header = judge(&image).expect("a version 2 image");
    assert_eq!((header.header_length, header.refcount_order), (72, 4));
}

#[apply(test)]
fn good_zstd_and_extended_l2() {
    let mut image = Image::new(1 << 20);
    image.u64(field::INCOMPATIBLE_FEATURES, 1 << 3 | 1 << 4).bytes(field::COMPRESSION_TYPE, &[1]);
    let header = judge(&image).expect("zstd and extended L2 are good");
    assert_eq!(header.incompatible_feature_names(), ["compression type", "extended L2 entries"]);
}

/// Each limit is the last good value.
#[apply(test)]
#[case::extended_l2(|i: &mut Image| { i.u64(field::INCOMPATIBLE_FEATURES, 1 << 4).u32(field::CLUSTER_BITS, 14); })]
#[case::refcount_order(|i: &mut Image| { i.u32(field::REFCOUNT_ORDER, 6); })]
#[case::backing_name(|i: &mut Image| { i.backing(&[b'n'; 1023]); })]
#[case::l1_and_size(|i: &mut Image| { i.u32(field::CLUSTER_BITS, 9).u32(field::L1_SIZE, 4 << 20).u64(field::SIZE, 128 << 30); })]
#[case::refcount_table(|i: &mut Image| { i.u32(field::REFCOUNT_TABLE_CLUSTERS, 128); })]
#[case::snapshots(|i: &mut Image| { i.u32(field::NB_SNAPSHOTS, 65536).u64(field::SNAPSHOTS_OFFSET, CLUSTER as u64); })]
#[case::bitmaps(|i: &mut Image| { i.bitmaps(1, 1 << 30, CLUSTER as u64); })]
fn a_limit_itself_is_good(#[case] extend: fn(&mut Image)) {
    let mut image = Image::new(1 << 20);
    extend(&mut image);
    let header = Header::parse(&image.0).expect("a header");
    assert_eq!(header.check(2 << 30), Ok(()));
}

#[apply(test)]
fn a_header_without_a_compression_type() {
    let mut image = Image::new(1 << 20);
    // What stands there is the type of an extension that nobody knows.
    image.u32(field::HEADER_LENGTH, 104).u32(field::COMPRESSION_TYPE, 0x0102_0304);
    assert_eq!(judge(&image).expect("a good header").compression_type, 0);
}

#[apply(test)]
fn extensions_are_read_up_to_their_end() {
    const UNKNOWN: u32 = 0x1234;
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    let at = field::EXTENSIONS;

    let mut image = Image::new(1 << 20);
    image.u32(at, UNKNOWN).u32(at + 4, 9).u32(at + 24, BACKING_FORMAT).u32(at + 28, 3);
    image.bytes(at + 32, b"raw");
    let format = judge(&image).expect("a good header").extensions.backing_format;
    assert_eq!(format.as_deref(), Some("raw"), "it follows one of 9 bytes, padded");

    let mut image = Image::new(1 << 20);
    image.u32(at + 8, BACKING_FORMAT).u32(at + 12, u32::MAX);
    judge(&image).expect("what follows the end is no extension");

    let mut image = Image::new(1 << 20);
    image.backing(b"/images/base.qcow2").u32(at, UNKNOWN);
    judge(&image).expect("the backing file's name ends them too");
}

/// The bitmaps extension counts only where the feature bit says that nobody wrote since.
#[apply(test)]
fn good_bitmaps_and_bitmaps_out_of_date() {
    let mut image = Image::new(1 << 20);
    image.bitmaps(65535, 24, CLUSTER as u64);
    let bitmaps = judge(&image).expect("bitmaps are good").extensions.bitmaps;
    let bitmaps = bitmaps.map(|b| (b.nb_bitmaps, b.bitmap_directory_size));
    assert_eq!(bitmaps, Some((65535, 24)));
    image.bitmaps(0, u64::MAX, 1).u64(field::AUTOCLEAR_FEATURES, 0);
    judge(&image).expect("nobody reads them");
}

#[apply(test)]
fn any_bytes_at_all() {
    proptest!(properties(2000), |(
        damage in proptest::collection::vec((0_usize..240, any::<u8>()), 0..12),
        length in 0_usize..400,
        name in proptest::collection::vec(any::<u8>(), 0..40),
    )| {
        let mut image = Image::new(1 << 20);
        if !name.is_empty() {
            image.backing(&name);
        }
        for (at, byte) in damage {
            image.bytes(at, &[byte]);
        }
        let _ = judge(&image);
        image.0.truncate(length);
        let _ = judge(&image);
    });
}
