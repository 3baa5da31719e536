//! The client in Rust.

use overlay_pool::api::{Client, Label};

use super::records;
use crate::harness::prelude::*;
use crate::harness::server::{self, Server};

#[apply(test)]
async fn a_client_has_a_disk_by_its_id(scratch: Scratch) {
    let server = Server::of_one_base(&scratch);
    let client = Client::new(server.socket());
    let (base, target) = (server::base(&scratch), server::vms(&scratch).join("vm"));
    let [id, owner, other]: [Label; 3] =
        ["vm-1", "ci", "other"].map(|text| text.parse().expect("a label"));
    let lease = || client.lease(&base, &target, Some(2 << 20), &id, Some(&owner));
    let answer = lease().await.expect("a disk");
    assert_eq!(lease().await.expect("the same"), answer);
    let refused = client.lease(&base, &target, None, &id, Some(&owner)).await;
    assert_eq!(refused.expect_err("another size").name(), Some("id-taken"));

    let disk = client.disk(&id).await.expect("an answer").expect("the disk");
    assert_eq!((&disk.id, disk.owner.as_ref(), &disk.target), (&id, Some(&owner), &target));
    assert_eq!(client.disks(None).await.expect("a list"), std::slice::from_ref(&disk));
    assert_eq!(client.disks(Some(&owner)).await.expect("a list"), [disk]);
    assert_eq!(client.disks(Some(&other)).await.expect("a list"), []);
    // As a disk that has taken the id since.
    let refused = client.release_at(&id, &target.with_file_name("other")).await;
    assert_eq!(refused.expect_err("it is elsewhere").name(), Some("id-taken"));
    assert!(target.exists() && client.disk(&id).await.expect("an answer").is_some());
    for _ in 0..2 {
        client.release_at(&id, &target).await.expect("it is gone");
        assert!(!target.exists() && records(&scratch).is_empty());
        assert_eq!(client.disk(&id).await.expect("an answer"), None);
    }
    lease().await.expect("another");
    client.release(&id).await.expect("it is gone");
    lease().await.expect("another");
    assert_eq!(client.release_all(&other).await.expect("an answer"), 0);
    assert_eq!(client.release_all(&owner).await.expect("an answer"), 1);
    assert!(!target.exists());
    server.stop();
}
