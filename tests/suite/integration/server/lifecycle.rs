//! Starting, ending and starting again.

use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

const NEEDS: &[Need] = &[];

#[rstest]
#[test_attr(apply(case))]
fn term_leaves_what_was_acquired_and_nothing_else(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let target = server::vms(&scratch).join("vm.qcow2");
    let acquired = server.acquire(&server::base(&scratch), &target);
    assert_eq!((acquired.status, acquired.json()["source"].as_str()), (200, Some("pooled")));
    server.stop();
    assert!(target.exists() && !scratch.join("pool").exists());
    assert!(!server::socket(&scratch).exists());
}
