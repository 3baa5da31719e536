//! The bytes of an empty overlay.

use std::path::Path;

use overlay_pool::image::{Format, Header, Overlay, OverlayError, Profile};
use proptest::prelude::*;

use crate::harness::prelude::*;

/// The file's bytes up to the end of the last extent.
fn start_of(overlay: &Overlay) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in overlay.extents() {
        bytes.resize(usize::try_from(extent.offset).expect("small"), 0);
        bytes.extend_from_slice(&extent.bytes);
    }
    bytes
}

fn overlay(size: u64, profile: Profile) -> Result<Overlay, OverlayError> {
    Overlay::new("/images/python-3-base-x86_64.qcow2".as_ref(), Format::Qcow2, size, profile)
}

#[apply(test)]
fn a9_header_decoded(#[values(Profile::Qemu, Profile::Portable)] profile: Profile) {
    let overlay = overlay(10 << 30, profile).expect("a good overlay");
    let header = Header::parse(&start_of(&overlay)).expect("a header that we read ourselves");
    header.check(overlay.file_len()).expect("a header that we would accept");
    insta::with_settings!({ snapshot_suffix => format!("{profile:?}") }, {
        insta::assert_debug_snapshot!(header);
    });
}

#[apply(test)]
#[case::empty(0, 0)]
#[case::one_byte(1, 512)]
#[case::a_sector(512, 512)]
#[case::over_a_sector(513, 1024)]
#[case::over_a_gibibyte((1 << 30) + 1, (1 << 30) + 512)]
fn a9_size_rounds_up_to_a_sector(#[case] asked: u64, #[case] size: u64) {
    assert_eq!(overlay(asked, Profile::Qemu).expect("a good overlay").virtual_size(), size);
}

#[apply(test)]
#[case(Profile::Qemu, 4 << 50)]
#[case(Profile::Portable, 2 << 50)]
fn a9_size_is_bounded_by_the_l1_table(#[case] profile: Profile, #[case] limit: u64) {
    assert_eq!(profile.max_virtual_size(), limit);
    overlay(limit, profile).expect("the largest size");
    let refused = overlay(limit + 1, profile).expect_err("one byte more");
    assert_eq!(refused, OverlayError::TooLarge { size: limit + 1, limit });
    assert!(overlay(u64::MAX, profile).is_err());
}

#[apply(test)]
#[case(0, false)]
#[case(1, true)]
#[case(1023, true)]
#[case(1024, false)]
fn backing_name_has_1_to_1023_bytes(#[case] length: usize, #[case] good: bool) {
    let name = "n".repeat(length);
    let result = Overlay::new(Path::new(&name), Format::Raw, 512, Profile::Qemu);
    match result {
        Ok(_) => assert!(good),
        Err(error) => {
            assert!(!good);
            assert_eq!(error, OverlayError::BackingNameLength(length));
        }
    }
}

#[apply(test)]
fn what_we_lay_out_we_read_back() {
    proptest!(properties(256), |(
        name in proptest::collection::vec(1_u8..=255, 1..1024),
        size in 0_u64..=2 << 50,
        raw: bool,
        portable: bool,
    )| {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(&name));
        let format = if raw { Format::Raw } else { Format::Qcow2 };
        let profile = if portable { Profile::Portable } else { Profile::Qemu };
        let overlay = Overlay::new(path, format, size, profile).expect("within all limits");
        let header = Header::parse(&start_of(&overlay)).expect("a header");
        prop_assert_eq!(header.check(overlay.file_len()), Ok(()));
        prop_assert_eq!(header.backing_file.as_deref(), Some(path));
        prop_assert_eq!(header.extensions.backing_format.as_deref(), Some(format.as_str()));
        prop_assert_eq!(header.size, size.next_multiple_of(512));
        prop_assert_eq!(header.extended_l2(), profile.extended_l2());
        prop_assert_eq!(header.lazy_refcounts(), profile.lazy_refcounts());
        prop_assert_eq!(format.to_string(), format.as_str());
    });
}
