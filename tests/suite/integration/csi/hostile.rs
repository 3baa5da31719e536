//! What a Pod that runs as root leaves in its volume, and what others mount there.

use std::fs::{create_dir, create_dir_all, read_to_string, remove_file, write};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
use tonic::Code;

use super::restarts::{disk, leases};
use super::{NODE, names};
use crate::harness::kubernetes::messages::Publish;
use crate::harness::kubernetes::{Kubelet, Node, Pod};
use crate::harness::prelude::*;

const NEEDS: &[Need] = NODE;
/// How many directories are put into each other, and how many files the driver may open.
const DEEP: usize = 3000;
const OPEN: usize = 64;

async fn published(node: &Node, uid: &str) -> (Kubelet, Pod) {
    let (kubelet, pod) = (node.kubelet().await, node.pod(uid));
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    (kubelet, pod)
}

/// A volume's removal is refused, so that it is asked for again, and the message names `place`.
async fn stays(kubelet: &Kubelet, pod: &Pod, place: &Path) {
    let status = kubelet.unpublish(pod).await.expect_err("something is mounted there");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let expected = format!("{}: something is mounted there", place.display());
    assert!(status.message().contains(&expected), "{status:?}");
}

#[track_caller]
fn is_gone(pod: &Pod) {
    assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"]);
}

#[apply(test)]
async fn a_deep_tree_goes_with_its_volume(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let few = format!("ulimit -n {OPEN}; exec \"$0\" \"$@\"");
    let _driver = node.start_driver_by(&["sh", "-ec", &few], &[]);
    let (kubelet, pod) = published(&node, "1").await;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = open(pod.target(), flags, Mode::empty()).expect("the volume");
    for _ in 0..DEEP {
        mkdirat(&at, "d", Mode::RWXU).expect("a directory");
        at = openat(&at, "d", flags, Mode::empty()).expect("it opens");
    }
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    is_gone(&pod);
    assert!(leases(&server).is_empty());
}

/// Filesystems, directories of the same one, and files: nobody asked for what is in them to be removed.
#[apply(test)]
async fn what_is_mounted_in_a_volume_is_kept(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let other = scratch.join("other");
    create_dir(&other).expect("a folder");
    write(other.join("file"), "precious").expect("a file");
    let from = other.display();
    let file = format!("touch a/b/c; mount --bind '{from}/file' a/b/c");
    let filesystem = "mkdir a/b/c; mount -t tmpfs other a/b/c; echo -n precious >a/b/c/file";
    let same = format!("mkdir a/b/c; mount --bind '{from}' a/b/c");
    for (uid, script, seen) in
        [("1", file.as_str(), "a/b/c"), ("2", filesystem, "a/b/c/file"), ("3", &same, "a/b/c/file")]
    {
        let (kubelet, pod) = published(&node, uid).await;
        let (target, place) = (pod.target(), pod.target().join("a/b/c"));
        create_dir_all(target.join("a/b")).expect("folders");
        node.run(&format!("cd '{}'; {script}", target.display()));
        for _ in 0..2 {
            stays(&kubelet, &pod, &place).await;
            let kept = read_to_string(node.seen(&target.join(seen))).expect("it is kept");
            assert_eq!(kept, "precious", "{script}");
        }
        // The disk's space is free by then.
        assert!(leases(&server).is_empty(), "{script}");
        node.run(&format!("umount '{}'", place.display()));
        kubelet.unpublish(&pod).await.expect("it is unpublished");
        is_gone(&pod);
    }
    assert_eq!(read_to_string(other.join("file")).expect("it is kept"), "precious");
}

#[apply(test)]
async fn what_is_mounted_over_a_volume_is_kept(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let (kubelet, pod) = published(&node, "1").await;
    let target = pod.target();
    let over = format!("mount -t tmpfs other '{0}'; touch '{0}/qemu.args'", target.display());
    node.run(&over);
    stays(&kubelet, &pod, &target).await;
    assert_eq!(names(&node.seen(&target)), ["qemu.args"]);
    node.run(&format!("umount '{}'", target.display()));
    disk(&node, &pod);
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    is_gone(&pod);
}

/// A Pod has others than files under the names of the driver's files.
#[apply(test)]
async fn what_is_no_file_is_in_no_ones_way(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let names = ["qemu.args", ".qemu.args", "base.img", "disk.qcow2"];
    for (name, is_link) in names.iter().flat_map(|name| [(*name, false), (*name, true)]) {
        for again in [true, false] {
            let (kubelet, pod) = published(&node, "1").await;
            let taken = node.seen(&pod.target().join(name));
            if name == "base.img" {
                node.run(&format!("umount '{}'", pod.target().join(name).display()));
            }
            if taken.exists() {
                remove_file(&taken).expect("it is removed");
            }
            if is_link {
                symlink("nowhere", &taken).expect("a link");
            } else {
                create_dir_all(taken.join("of/a/pod")).expect("folders");
            }
            if again && name == "disk.qcow2" {
                let status = kubelet.publish(pod.request()).await.expect_err("its disk is lost");
                assert_eq!(status.code(), Code::Aborted, "not final: {status:?}");
            } else if again {
                kubelet.publish(pod.request()).await.expect("it is published again");
                disk(&node, &pod);
                let shown = std::fs::metadata(node.seen(&pod.target().join("base.img")));
                assert!(shown.expect("a base image").len() > 0, "{name}");
            }
            kubelet.unpublish(&pod).await.expect("it is unpublished");
            is_gone(&pod);
            assert!(leases(&server).is_empty() && node.mounts().is_empty(), "{name}");
        }
    }
}

/// After a final code the kubelet would never have the volume unpublished.
#[apply(test)]
async fn no_failure_is_final_while_the_volume_is_there(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let (kubelet, pod) = published(&node, "1").await;
    let with = |key: &'static str, value: &str| {
        let mut other = pod.clone();
        other.attributes.push((key, value.to_owned()));
        other.request()
    };
    let refused = async |request: Publish, why: &str| {
        let before = disk(&node, &pod);
        let status = kubelet.publish(request).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::Aborted, "{status:?}");
        assert!(status.message().contains(why), "{status:?}");
        assert_eq!(disk(&node, &pod), before);
    };
    refused(with("size", "1Gi"), "was asked for otherwise").await;
    refused(with("image", "missing.qcow2"), "was asked for otherwise").await;
    // As a driver of another version may say.
    refused(with("sise", "1Gi"), "sise").await;
    server.stop();
    std::fs::remove_dir_all(node.kubelet_dir().join("plugins/pool")).expect("its leases");
    let _server = node.start_server();
    refused(pod.request(), "disk.qcow2").await;
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    is_gone(&pod);
}
