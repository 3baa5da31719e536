//! Directories of other users, where our own lie or look like ours.

use std::os::unix::fs::chown;

use overlay_pool::creator::CreatorKind;

use crate::harness::pools::{config, pool};
use crate::harness::prelude::*;
use crate::harness::requirements::SOMEBODY;

const NEEDS: &[Need] = &[Need::Root];

#[apply(test)]
async fn a11_directory_of_another_user_is_not_trusted(scratch: Scratch) {
    let parent = scratch.join("pool");
    std::fs::create_dir(&parent).expect("a folder");
    chown(&parent, Some(SOMEBODY), None).expect("its owner");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("it works on demand");
    assert!(pool.directory().is_none());
}

/// A name like ours makes nothing ours: what another user has there stays.
#[apply(test)]
async fn c1_directory_of_another_user_is_not_swept(scratch: Scratch) {
    let theirs = scratch.join("pool").join(format!("pool-{:032x}", 7));
    std::fs::create_dir_all(&theirs).expect("a folder");
    chown(&theirs, Some(SOMEBODY), None).expect("its owner");
    let pool = pool(config(CreatorKind::Native, &scratch, 4));
    pool.start(Some(Vec::new())).await.expect("the pool starts");
    assert!(pool.directory().is_some());
    pool.stop().await;
    assert!(theirs.is_dir());
}
