//! What is mounted in the server's container.

use super::NODE;
use crate::harness::kubernetes::Node;
use crate::harness::prelude::*;

const NEEDS: &[Need] = NODE;

/// What was mounted when the server started is gone there when it is gone on the node: else the device of
/// another driver's volume would stay busy, and a base image that was removed would keep its space.
#[apply(test)]
async fn the_server_keeps_nothing_mounted(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let base = pod.target().join("base.img").display().to_string();
    let other = node.pod("2").target();
    std::fs::create_dir_all(&other).expect("folders");
    let other = other.display().to_string();
    node.run(&format!("mount -t tmpfs other '{other}'"));
    server.stop();
    let server = node.start_server();
    assert_eq!(node.mounts_in(&server), [base.clone(), other.clone()]);
    node.run(&format!("umount '{other}'"));
    assert_eq!(node.mounts_in(&server), [base]);
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    assert_eq!(node.mounts_in(&server), [""; 0]);
    server.stop();
}
