//! Rule A9 by an independent reader and writer of qcow2: the crate qcow2-rs.

use std::path::Path;

use overlay_pool::PoolConfig;
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{OverlayOptions, Profile};
use qcow2_rs::dev::{Qcow2Dev, Qcow2DevParams};
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::tokio_io::Qcow2IoTokio;
use qcow2_rs::utils::qcow2_setup_dev_tokio;

use crate::harness::pools::{config, started};
use crate::harness::prelude::*;
use crate::harness::qemu;

async fn open(image: &Path) -> Qcow2Dev<Qcow2IoTokio> {
    let parameters = Qcow2DevParams::new(9, None, None, false, false);
    qcow2_setup_dev_tokio(image, &parameters).await.expect("qcow2-rs opens the overlay")
}

async fn read(image: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = Qcow2IoBuf::<u8>::new(length);
    open(image).await.read_at(&mut buffer, offset).await.expect("qcow2-rs reads");
    buffer.to_vec()
}

async fn write(image: &Path, offset: u64, bytes: &[u8]) {
    let mut buffer = Qcow2IoBuf::<u8>::new(bytes.len());
    buffer.copy_from_slice(bytes);
    let disk = open(image).await;
    disk.write_at(&buffer, offset).await.expect("qcow2-rs writes");
    disk.flush_meta().await.expect("qcow2-rs writes its tables");
    disk.fsync_range(0, usize::MAX >> 1).await.expect("qcow2-rs syncs");
}

#[apply(each_creator)]
#[needs(QemuImg, QemuIo)]
async fn a9_qcow2_rs_and_qemu_io_agree(#[with(256)] stage: Stage, #[case] creator: CreatorKind) {
    let before = std::fs::read(&stage.base).expect("the base image");
    let overlay = OverlayOptions { profile: Profile::Portable, virtual_size: None };
    let pool = started(PoolConfig { overlay, ..config(creator, &stage, 2) }, &stage.base).await;
    for name in ["pooled.qcow2", "on-demand.qcow2"] {
        let disk = stage.join(name);
        pool.acquire(&stage.base, &disk).await.expect("an overlay");
        // Both read the base through the empty overlay.
        assert_eq!(read(&disk, 0, 4096).await, [0x5a; 4096]);
        assert_eq!(read(&disk, 200 << 20, 4096).await, [0; 4096]);
        // What either writes, the other reads: over the base's data, across a cluster, at the end.
        write(&disk, 4096, &[0x11; 8192]).await;
        write(&disk, (64 << 10) - 4096, &[0x22; 8192]).await;
        qemu::io(&disk, &["write -q -P 0x33 255M 1M"]);
        qemu::io(
            &disk,
            &[
                "read -q -P 0x5a 0 4k",
                "read -q -P 0x11 4k 8k",
                "read -q -P 0x22 60k 8k",
                "read -q -P 0x33 255M 1M",
            ],
        );
        assert_eq!(read(&disk, (256 << 20) - 4096, 4096).await, [0x33; 4096]);
        assert_eq!(read(&disk, 12 << 10, 4096).await, [0x5a; 4096]);
        qemu::check(&disk);
    }
    assert!(
        std::fs::read(&stage.base).expect("the base image") == before,
        "the base was written to"
    );
}
