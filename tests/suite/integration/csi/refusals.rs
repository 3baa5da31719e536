//! What a driver refuses, with the codes by which the kubelet knows what to do.

use std::path::Path;

use tonic::{Code, Status};

use super::{NODE, names};
use crate::harness::kubernetes::messages::{
    AskStats, Capability, Empty, Mount, Numbered, Publish, Stats, Unpublish,
};
use crate::harness::kubernetes::{Kubelet, Node, Pod};
use crate::harness::prelude::*;
use crate::harness::qcow2::Image;

const NEEDS: &[Need] = NODE;

/// The code and the message of a failure.
#[track_caller]
fn failed<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

/// Has a Pod's volume refused, of which then nothing is left.
async fn refused(kubelet: &Kubelet, pod: &Pod) -> (Code, String) {
    let answer = failed(kubelet.publish(pod.admit().request()).await);
    assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"], "{answer:?}");
    answer
}

/// What CSI's own suite leaves out of its requests, in its order.
#[apply(test)]
async fn what_is_missing_is_an_invalid_argument(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    pod.admit();
    let whole = pod.request();
    let block = Capability { block: Some(Empty {}), mount: None, ..Capability::default() };
    let many = Capability {
        mount: Some(Mount::default()),
        access_mode: Some(Numbered { number: 5 }),
        block: None,
    };
    for request in [
        Publish::default(),
        Publish { volume_id: String::new(), ..whole.clone() },
        Publish { volume_id: "../1".to_owned(), ..whole.clone() },
        Publish { target_path: String::new(), ..whole.clone() },
        Publish { target_path: "pods/1".to_owned(), ..whole.clone() },
        Publish { target_path: scratch.join("elsewhere").display().to_string(), ..whole.clone() },
        Publish { volume_capability: None, ..whole.clone() },
        Publish { volume_capability: Some(block), ..whole.clone() },
        Publish { volume_capability: Some(many), ..whole.clone() },
        Publish { readonly: true, ..whole.clone() },
    ] {
        let answer = failed(kubelet.publish(request).await);
        assert_eq!(answer.0, Code::InvalidArgument, "{answer:?}");
    }
    let target_path = whole.target_path;
    for (volume_id, target_path) in [("", target_path.as_str()), ("1", ""), ("1", "/elsewhere")] {
        let (volume_id, target_path) = (volume_id.to_owned(), target_path.to_owned());
        let request = Unpublish { volume_id, target_path };
        let answer: Result<Empty, _> =
            kubelet.call("/csi.v1.Node/NodeUnpublishVolume", request).await;
        assert_eq!(failed(answer).0, Code::InvalidArgument);
    }
    for (id, path, code) in [
        ("", "some/path", Code::InvalidArgument),
        ("1", "", Code::InvalidArgument),
        ("1", "some/path", Code::NotFound),
        ("1", "/some/path", Code::NotFound),
        ("1", target_path.as_str(), Code::NotFound),
    ] {
        let request = AskStats {
            volume_id: id.to_owned(),
            volume_path: path.to_owned(),
            ..AskStats::default()
        };
        let answer: Result<Stats, _> =
            kubelet.call("/csi.v1.Node/NodeGetVolumeStats", request).await;
        assert_eq!(failed(answer).0, code, "{id} {path}");
    }
    assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"]);
}

/// After a final code the kubelet has nothing unpublished, so that nothing may be left.
#[apply(test)]
async fn a_final_refusal_leaves_nothing(scratch: Scratch) {
    let node = Node::new(&scratch);
    std::fs::write(node.images().join("garbage.qcow2"), [7; 4096]).expect("a file");
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let with = |key: &'static str, value: &str| {
        let mut pod = node.pod("1");
        pod.attributes.push((key, value.to_owned()));
        pod
    };
    for (pod, code, word) in [
        (with("image", "later.qcow2"), Code::NotFound, "later.qcow2"),
        (with("image", "garbage.qcow2"), Code::InvalidArgument, "garbage.qcow2"),
        (with("image", "../kubelet"), Code::InvalidArgument, "image"),
        (with("size", "1Mi"), Code::InvalidArgument, "1048576"),
        (with("size", "20G"), Code::InvalidArgument, "20Gi"),
        (with("format", "vmdk"), Code::InvalidArgument, "qcow2 or raw"),
        (with("sise", "20Gi"), Code::InvalidArgument, "sise"),
    ] {
        for _ in 0..2 {
            let (found, message) = refused(&kubelet, &pod).await;
            assert_eq!(found, code, "{message}");
            assert!(message.contains(word), "{message}");
        }
    }
    // What was missing comes.
    Image::with_data(1 << 20).write(&node.images().join("later.qcow2"));
    let pod = with("image", "later.qcow2");
    kubelet.publish(pod.request()).await.expect("it is published");
    kubelet.unpublish(&pod).await.expect("it is unpublished");
}

/// A Pod that isn't root's would find a disk that it can't open.
#[apply(test)]
async fn a_base_image_that_a_group_cannot_read(scratch: Scratch) {
    let node = Node::new(&scratch);
    let base = node.images().join("python.qcow2");
    let allow = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&base, mode).expect("a mode");
    };
    allow(0o600);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.group = Some(23456);
    let (code, message) = refused(&kubelet, &pod).await;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    assert!(message.contains("chmod a+r"), "{message}");
    assert_eq!(node.mounts(), [""; 0]);
    allow(0o444);
    kubelet.publish(pod.request()).await.expect("it is published");
}

/// Without the right to mount nothing is left, and the message says what to do.
#[apply(test)]
async fn a_driver_that_may_not_mount(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver_by(&["setpriv", "--bounding-set=-sys_admin"], &[]);
    let kubelet = node.kubelet().await;
    let (code, message) = refused(&kubelet, &node.pod("1")).await;
    assert_eq!(code, Code::PermissionDenied, "{message}");
    assert!(message.contains("privileged"), "{message}");
}

/// Whatever is where the disk shall be stays, until the kubelet has the volume removed.
#[apply(test)]
async fn a_stranger_s_file_is_kept(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    pod.admit();
    let file = pod.target().join("disk.qcow2");
    std::fs::create_dir(pod.target()).expect("a folder");
    std::fs::write(&file, "a stranger's").expect("a file");
    let (code, message) = failed(kubelet.publish(pod.request()).await);
    assert_eq!(code, Code::Aborted, "not final: {message}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "a stranger's");
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    kubelet.publish(pod.request()).await.expect("it is published");
}

/// A volume has one place: another request with its id harms nothing.
#[apply(test)]
async fn an_id_has_one_target(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let (pod, other) = (node.pod("1"), node.pod("2"));
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let request = Publish { volume_id: pod.id(), ..other.admit().request() };
    let (code, message) = failed(kubelet.publish(request).await);
    assert_eq!(code, Code::AlreadyExists, "{message}");
    assert!(!other.target().exists());
    let mut larger = pod.clone();
    larger.attributes.push(("size", "1Gi".to_owned()));
    let (code, message) = failed(kubelet.publish(larger.request()).await);
    assert_eq!(code, Code::Aborted, "not final: {message}");
    let target_path = other.target().display().to_string();
    let request = Unpublish { volume_id: pod.id(), target_path };
    let answer: Result<Empty, _> = kubelet.call("/csi.v1.Node/NodeUnpublishVolume", request).await;
    assert_eq!(failed(answer).0, Code::InvalidArgument);
    is_whole(&node, &pod);
}

#[track_caller]
fn is_whole(node: &Node, pod: &Pod) {
    let seen = node.seen(&pod.target());
    assert_eq!(names(&seen), ["base.img", "disk.qcow2", "qemu.args"]);
    assert_eq!(node.mounts(), [pod.target().join("base.img").display().to_string()]);
}

/// Not final: the server comes again, and so does the kubelet.
#[apply(test)]
async fn a_server_that_is_not_there_is_waited_for(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    assert_eq!(failed(kubelet.publish(pod.admit().request()).await).0, Code::Unavailable);
    let server = node.start_server();
    kubelet.publish(pod.request()).await.expect("it is published");
    server.stop();
    assert_eq!(failed(kubelet.publish(pod.request()).await).0, Code::Unavailable);
    is_whole(&node, &pod);
    assert_eq!(failed(kubelet.unpublish(&pod).await).0, Code::Unavailable);
    let _server = node.start_server();
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    assert!(!node.seen(&pod.target()).exists());
}

/// The scheduler doesn't count ephemeral volumes, so that the driver does.
#[apply(test)]
async fn a_node_has_so_many_volumes(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let driver = node.start_driver(&["--max-volumes", "2"]);
    let kubelet = node.kubelet().await;
    let [one, two, three] = ["1", "2", "3"].map(|uid| node.pod(uid));
    for pod in [&one, &two, &one] {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
    }
    let many = failed(kubelet.publish(three.admit().request()).await);
    assert_eq!(many.0, Code::ResourceExhausted, "not final: {many:?}");
    // It knows them again.
    driver.kill();
    let _driver = node.start_driver(&["--max-volumes", "2"]);
    let kubelet = node.kubelet().await;
    let many = failed(kubelet.publish(three.request()).await);
    assert_eq!(many.0, Code::ResourceExhausted, "{many:?}");
    kubelet.publish(two.request()).await.expect("it is published");
    kubelet.unpublish(&two).await.expect("it is unpublished");
    kubelet.publish(three.request()).await.expect("it is published");
}

/// Also if the kubelet had it unpublished after a failure that left open whether it is there, or if
/// the Pod removed the disk.
#[apply(test)]
async fn a_volume_that_is_not_there_does_not_count(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&["--max-volumes", "1"]);
    let kubelet = node.kubelet().await;
    let [one, two, three] = ["1", "2", "3"].map(|uid| node.pod(uid));
    kubelet.publish(one.admit().request()).await.expect("it is published");
    std::fs::remove_file(node.seen(&one.target()).join("disk.qcow2")).expect("it is removed");
    kubelet.unpublish(&one).await.expect("it is unpublished");
    server.stop();
    assert_eq!(failed(kubelet.publish(two.admit().request()).await).0, Code::Unavailable);
    let _server = node.start_server();
    kubelet.unpublish(&two).await.expect("it is unpublished");
    kubelet.publish(three.admit().request()).await.expect("there is room for one");
}

/// A message that is no message, or far too large, ends nothing.
#[apply(test)]
async fn what_is_too_large_is_refused(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.attributes = vec![("image", "a".repeat(1 << 20))];
    let (code, message) = failed(kubelet.publish(pod.request()).await);
    assert_eq!(code, Code::OutOfRange, "{message}");
    let (code, message) = failed(kubelet.publish(node.pod("1").request()).await);
    assert_ne!(code, Code::OutOfRange, "{message}");
    assert!(!Path::new(&pod.target()).exists());
}
