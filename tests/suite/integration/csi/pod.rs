//! What a Pod finds in its volume.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::NODE;
use crate::harness::kubernetes::{Node, Pod, SIZE};
use crate::harness::prelude::*;

const NEEDS: &[Need] = NODE;
/// A group that a Pod has.
const GROUP: u32 = 23456;

/// Opens the disk by the arguments as they are in the file, and writes to it.
const OPEN: &str = "set -- $(cat qemu.args); [ \"$1\" = --blockdev ]; \
                    qemu-io --image-opts \"$2\" \
                    -c 'read -P 0x5a 0 512' -c 'write -P 0x77 64k 4k' -c 'read -P 0x77 64k 4k'";

/// The kubelet asks twice for all that it asks for once.
#[apply(test)]
#[needs(QemuIo)]
async fn a_pod_s_group_opens_the_disk(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.group = Some(GROUP);
    for _ in 0..2 {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
    }

    let seen = |name: &str| node.seen(&pod.target().join(name));
    for (name, mode) in [("", 0o750), ("disk.qcow2", 0o660), ("qemu.args", 0o440)] {
        let found = std::fs::metadata(seen(name)).expect("it is there");
        assert_eq!((found.uid(), found.gid()), (0, GROUP), "{name}");
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
    }
    let base = std::fs::read(node.images().join("python.qcow2")).expect("the base image");
    assert_eq!(std::fs::read(seen("base.img")).expect("it is there"), base);

    let opened = node.run_in(&pod, OPEN);
    assert_eq!(opened.code, Some(0), "{opened}");
    assert!(!opened.stdout.contains("Pattern verification failed"), "{opened}");
    // What it wrote is in its overlay, and stays if the kubelet asks again.
    kubelet.publish(pod.request()).await.expect("it is published");
    let again = node.run_in(
        &pod,
        "set -- $(cat qemu.args); qemu-io --image-opts \"$2\" -c 'read -P 0x77 64k 4k'",
    );
    assert!(!again.stdout.contains("Pattern verification failed"), "{again}");
    assert_eq!(std::fs::read(node.images().join("python.qcow2")).expect("it"), base);

    // Another Pod's group has nothing of it.
    let mut stranger = pod.clone();
    stranger.group = Some(GROUP + 1);
    let refused = node.run_in(&stranger, "cat qemu.args");
    assert_ne!(refused.code, Some(0), "{refused}");
    // And its own changes nothing but the disk.
    for script in
        ["rm disk.qcow2", "mv qemu.args other", "echo >base.img", "echo >qemu.args", "ln -s x y"]
    {
        let refused = node.run_in(&pod, script);
        assert_ne!(refused.code, Some(0), "{script}: {refused}");
    }

    for _ in 0..2 {
        kubelet.unpublish(&pod).await.expect("it is unpublished");
    }
    assert!(!node.seen(&pod.target()).exists());
    assert_eq!(node.mounts(), [""; 0]);
    server.stop();
}

/// Kubernetes has Pods that say which user they run as, and no group, run with group 0.
#[apply(test)]
async fn without_a_group_the_disk_is_root_s_alone(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    let modes = |pod: &Pod| {
        ["", "disk.qcow2", "qemu.args"].map(|name| {
            let found =
                std::fs::metadata(node.seen(&pod.target().join(name))).expect("it is there");
            assert_eq!(found.uid(), 0, "{name}");
            found.mode() & 0o7777
        })
    };
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    assert_eq!(modes(&pod), [0o700, 0o600, 0o400]);
    let refused = node.run_in(&Pod { group: Some(0), ..pod.clone() }, "cat qemu.args");
    assert_ne!(refused.code, Some(0), "{refused}");
    // The group may come, and go.
    for (group, expected) in [(Some(GROUP), [0o750, 0o660, 0o440]), (None, [0o700, 0o600, 0o400])] {
        pod.group = group;
        kubelet.publish(pod.request()).await.expect("it is published");
        assert_eq!(modes(&pod), expected);
    }
}

/// Root itself, on the node and in a Pod, can't write to the base image by its mount.
#[apply(test)]
async fn a_base_image_is_read_only_for_all(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let base = pod.target().join("base.img");
    assert_eq!(node.mounts(), [base.display().to_string()]);
    let flags = statvfs(node.seen(&base)).expect("its mount").f_flag;
    let expected = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
    assert!(flags.contains(expected), "{flags:?}");
    let error =
        std::fs::File::options().write(true).open(node.seen(&base)).expect_err("it is read-only");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    kubelet.unpublish(&pod).await.expect("it is unpublished");
}

/// QEMU itself, and the daemon of disks, take the file's two words as they are.
#[apply(test)]
#[needs(QemuSystem, StorageDaemon)]
async fn qemu_takes_the_arguments(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.group = Some(GROUP);
    pod.attributes.push(("size", "64Mi".to_owned()));
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let ask = "echo '{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-named-block-nodes\"}\
               {\"execute\":\"quit\"}'";
    for program in [
        "qemu-system-x86_64 -machine none -display none -qmp stdio",
        "qemu-storage-daemon --chardev stdio,id=stdio --monitor chardev=stdio",
    ] {
        let answer = node.run_in(&pod, &format!("{ask} | {program} $(cat qemu.args)"));
        assert_eq!(answer.code, Some(0), "{answer}");
        assert!(answer.stdout.contains("\"virtual-size\": 67108864"), "{answer}");
        assert!(answer.stdout.contains("\"node-name\": \"disk\""), "{answer}");
    }
}

/// Base images without a format of their own are never guessed.
#[apply(test)]
#[needs(QemuIo)]
async fn a_raw_image_is_a_base(scratch: Scratch) {
    let node = Node::new(&scratch);
    std::fs::write(node.images().join("raw.img"), vec![0x5a; 1 << 20]).expect("an image");
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.group = Some(GROUP);
    pod.attributes = vec![("image", "raw.img".to_owned()), ("format", "raw".to_owned())];
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let opened = node.run_in(&pod, OPEN);
    assert!(opened.code == Some(0) && !opened.stdout.contains("failed"), "{opened}");
}

/// The example boots the disk that it is given: here one whose first sector says something.
#[apply(test)]
#[needs(QemuSystem)]
async fn the_example_boots_its_disk(scratch: Scratch) {
    const SECTOR: &[u8] =
        b"\x31\xc0\x8e\xd8\xba\xf8\x03\xbe\x19\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\
                            \xb0\xfe\xe6\x64\xf4\xeb\xfdhello from pool\r\n\0";
    let mut image = vec![0; 1 << 20];
    image[..SECTOR.len()].copy_from_slice(SECTOR);
    image[510..512].copy_from_slice(b"\x55\xaa");
    let node = Node::new(&scratch);
    std::fs::write(node.images().join("boots.img"), image).expect("an image");
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let mut pod = node.pod("1");
    pod.group = Some(GROUP);
    pod.attributes = vec![("image", "boots.img".to_owned()), ("format", "raw".to_owned())];
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let example = include_str!("../../../../fixtures/kubernetes/example-pod.yaml");
    let (_, command) = example.split_once(">-\n").expect("its command");
    let (command, _) = command.split_once("securityContext").expect("its end");
    let words: Vec<_> = command.split_whitespace().collect();
    assert_eq!(words[..2], ["exec", "qemu-system-x86_64"]);
    // It ends with the disk's wish to restart.
    let booted = node.run_in(&pod, &words.join(" "));
    assert!(booted.code == Some(0) && booted.stdout.contains("hello from pool"), "{booted}");
}

#[apply(test)]
async fn stats_are_those_of_the_disk(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let disk = node.seen(&pod.target().join("disk.qcow2"));
    let used = || std::fs::metadata(&disk).expect("it is there").blocks() * 512;
    for _ in 0..2 {
        let stats = kubelet.stats(&pod).await.expect("an answer");
        let [usage] = stats.usage.as_slice() else { panic!("{stats:?}") };
        assert_eq!(usage.unit, 1, "BYTES");
        assert_eq!(usage.total, i64::try_from(SIZE).expect("small"));
        assert_eq!(usage.used, i64::try_from(used()).expect("small"));
        assert!((0..=usage.total - usage.used).contains(&usage.available), "{usage:?}");
        let file = std::fs::File::options().append(true).open(&disk).expect("the disk");
        std::io::Write::write_all(&mut &file, &vec![1; 1 << 20]).expect("a guest writes");
    }
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    let gone = kubelet.stats(&pod).await.expect_err("it is gone");
    assert_eq!(gone.code(), tonic::Code::NotFound);
}
