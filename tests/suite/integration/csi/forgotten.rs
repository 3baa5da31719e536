//! Volumes that neither the kubelet nor the server knows any more.

use std::fs::File;

use rustix::fs::{FlockOperation, fcntl_lock};

use super::restarts::disk;
use super::{NODE, names};
use crate::harness::kubernetes::{Node, Pod};
use crate::harness::prelude::*;

const NEEDS: &[Need] = NODE;

/// Waits until the driver that was started last has looked at all volumes.
async fn has_looked(scratch: &Scratch) {
    let log = || std::fs::read_to_string(scratch.join("driver.log")).expect("a log");
    eventually("it looks", || log().contains("looked for disks of forgotten Pods")).await;
}

/// The pool directory was lost, and with it all leases. What may be in use, or another driver's, stays.
#[apply(test)]
async fn what_nobody_knows_is_removed(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let [forgotten, recorded, running, open] =
        ["forgotten", "recorded", "running", "open"].map(|uid| node.pod(uid));
    for pod in [&forgotten, &recorded, &running, &open] {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
    }
    driver.kill();
    server.stop();
    std::fs::remove_dir_all(node.kubelet_dir().join("plugins/pool")).expect("it is removed");
    for pod in [&forgotten, &running, &open] {
        std::fs::remove_file(pod.record()).expect("it is removed");
    }
    let token = running.directory().join("volumes/kubernetes.io~projected/token");
    std::fs::create_dir_all(token).expect("folders");
    // As QEMU does.
    let held = File::options().read(true).write(true).open(open.target().join("disk.qcow2"));
    let held = held.expect("the disk");
    fcntl_lock(&held, FlockOperation::NonBlockingLockShared).expect("nobody has it");
    // Those of other drivers: nothing mounted, other arguments, and a mount of its own.
    let copied = |uid: &str| {
        let other = node.pod(uid);
        std::fs::create_dir_all(other.target()).expect("folders");
        other
    };
    let fill = |other: &Pod| {
        for name in ["base.img", "disk.qcow2", "qemu.args"] {
            let from = node.seen(&forgotten.target().join(name));
            std::fs::copy(from, node.seen(&other.target().join(name))).expect("copied");
        }
    };
    let show = |other: &Pod| {
        let (base, target) = (node.images().join("python.qcow2"), other.target().join("base.img"));
        node.run(&format!("mount --bind '{}' '{}'", base.display(), target.display()));
    };
    let [unmounted, told, mounted] = ["unmounted", "told", "mounted"].map(copied);
    let target = mounted.target();
    node.run(&format!("mount -t tmpfs other '{}'", target.display()));
    for other in [&unmounted, &told, &mounted] {
        fill(other);
    }
    show(&told);
    show(&mounted);
    std::fs::write(told.target().join("qemu.args"), "--blockdev driver=raw\n").expect("a file");
    let kept = [&recorded, &running, &open, &unmounted, &told, &mounted];
    let before = kept.map(|pod| disk(&node, pod));
    let mounts = node.mounts().len();

    std::fs::remove_file(scratch.join("driver.log")).expect("it is removed");
    let _server = node.start_server();
    let driver = node.start_driver(&[]);
    has_looked(&scratch).await;
    assert!(!node.seen(&forgotten.target()).exists());
    assert_eq!(kept.map(|pod| disk(&node, pod)), before);
    assert_eq!(node.mounts().len(), mounts - 1);
    // The kubelet has what it knows unpublished.
    node.kubelet().await.unpublish(&recorded).await.expect("it is unpublished");
    assert_eq!(names(recorded.target().parent().expect("one")), ["vol_data.json"]);
    driver.kill();

    drop(held);
    std::fs::remove_file(scratch.join("driver.log")).expect("it is removed");
    let _driver = node.start_driver(&[]);
    has_looked(&scratch).await;
    assert!(!node.seen(&open.target()).exists());
    disk(&node, &running);
}
