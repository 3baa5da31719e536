//! Driver and server are killed at any moment; volumes stay, and none is lost, double or left.
//!
//! `OVERLAY_POOL_CHAOS_VOLUMES` sets how many (100 by default), `OVERLAY_POOL_CHAOS_KILLS` how often
//! both are killed meanwhile (10), `OVERLAY_POOL_SEED` the moments.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;

use super::{NODE, names};
use crate::harness::kubernetes::{Kubelet, Node, Pod};
use crate::harness::prelude::*;
use crate::harness::properties::{number, seed};
use crate::harness::scratch::record_names;
use crate::harness::server::Server;

const NEEDS: &[Need] = NODE;

/// The ids of the disks that a server has handed over.
pub(super) fn leases(server: &Server) -> HashSet<String> {
    let disks = server.get("/v1/disks?owner=overlay-pool.csi").json();
    let id = |disk: &Value| disk["id"].as_str().expect("an id").to_owned();
    disks.as_array().expect("disks").iter().map(id).collect()
}

/// The number of a Pod's disk, if it has one and all that belongs to it.
#[track_caller]
pub(super) fn disk(node: &Node, pod: &Pod) -> u64 {
    let seen = node.seen(&pod.target());
    assert_eq!(names(&seen), ["base.img", "disk.qcow2", "qemu.args"], "{}", pod.uid);
    std::fs::metadata(seen.join("disk.qcow2")).expect("a disk").ino()
}

/// A record whose disk may be on a filesystem that isn't mounted is kept by the server: it is in nobody's way
/// once the kubelet has the volume removed.
#[apply(test)]
async fn a_volume_whose_disk_is_lost_is_removed_with_its_record(scratch: Scratch) {
    let node = Node::new(&scratch);
    let pod = node.pod("1");
    let server = node.start_server();
    let driver = node.start_driver(&[]);
    node.kubelet().await.publish(pod.admit().request()).await.expect("it is published");
    driver.kill();
    server.stop();
    // As if it had been on another device.
    let records = node.kubelet_dir().join("plugins/pool/leases");
    let [name] = &record_names(&records)[..] else { panic!("{:?}", names(&records)) };
    let mut record: Value =
        serde_json::from_slice(&std::fs::read(records.join(name)).expect("it")).expect("JSON");
    record["file"]["device"] = 1.into();
    record["directory"] = Value::Null;
    std::fs::write(records.join(name), record.to_string()).expect("written");
    std::fs::remove_file(pod.target().join("disk.qcow2")).expect("removed");

    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    assert_eq!(leases(&server).len(), 1);
    node.kubelet().await.unpublish(&pod).await.expect("it is unpublished");
    assert!(leases(&server).is_empty() && !pod.target().exists());
    server.stop();
}

/// Between any two calls both may die.
#[apply(test)]
async fn a_volume_outlives_driver_and_server(scratch: Scratch) {
    let node = Node::new(&scratch);
    let pod = node.pod("1");
    pod.admit();
    let mut disks = HashSet::new();
    for round in 0..3 {
        let server = node.start_server();
        let driver = node.start_driver(&[]);
        let kubelet = node.kubelet().await;
        kubelet.publish(pod.request()).await.expect("it is published");
        disks.insert(disk(&node, &pod));
        kubelet.stats(&pod).await.expect("an answer");
        assert_eq!(node.mounts().len(), 1, "round {round}");
        driver.kill();
        server.signal(Signal::KILL);
        server.wait();
        assert_eq!(disks, HashSet::from([disk(&node, &pod)]), "nobody needs them to use a disk");
    }
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    for _ in 0..2 {
        kubelet.unpublish(&pod).await.expect("it is unpublished");
        assert!(!node.seen(&pod.target()).exists());
    }
    assert_eq!(leases(&server), HashSet::new());
    assert_eq!(node.mounts(), [""; 0]);
}

/// A node that was restarted has its files, and no mounts.
#[apply(test)]
async fn a_base_image_is_shown_again_after_a_restart_of_the_node(scratch: Scratch) {
    let pod = {
        let node = Node::new(&scratch);
        let _server = node.start_server();
        let _driver = node.start_driver(&[]);
        let pod = node.pod("1");
        node.kubelet().await.publish(pod.admit().request()).await.expect("it is published");
        pod
    };
    let node = Node::again(&scratch);
    let base = || std::fs::read(node.seen(&pod.target().join("base.img"))).expect("a file").len();
    assert_eq!((node.mounts(), base()), (Vec::new(), 0));
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    kubelet.publish(pod.request()).await.expect("it is published");
    assert_eq!(node.mounts().len(), 1);
    assert!(base() > 0);
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    assert_eq!(node.mounts(), [""; 0]);
}

/// Unpublished before it was published, and with nothing of the kubelet's there.
#[apply(test)]
async fn calls_in_the_wrong_order(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.unpublish(&pod).await.expect("there is none");
    pod.admit();
    kubelet.unpublish(&pod).await.expect("there is none");
    kubelet.stats(&pod).await.expect_err("there is none");
    for _ in 0..3 {
        kubelet.publish(pod.request()).await.expect("it is published");
        assert_eq!(leases(&server), HashSet::from([pod.id()]));
        kubelet.unpublish(&pod).await.expect("it is unpublished");
        assert_eq!(leases(&server), HashSet::new());
        assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"]);
    }
}

/// Calls for one volume at the same time follow each other.
#[apply(test)]
async fn calls_for_one_volume_at_once(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    pod.admit();
    for answer in join_all((0..16).map(|_| kubelet.publish(pod.request()))).await {
        answer.expect("it is published");
    }
    disk(&node, &pod);
    assert_eq!((leases(&server), node.mounts().len()), (HashSet::from([pod.id()]), 1));
    // Whichever comes last, each did all of its own.
    let both = |number| {
        let (kubelet, pod) = (kubelet.clone(), pod.clone());
        async move {
            match number % 2 {
                0 => kubelet.publish(pod.request()).await,
                _ => kubelet.unpublish(&pod).await,
            }
        }
    };
    for answer in join_all((0..16).map(both)).await {
        answer.expect("it is done");
    }
    for answer in join_all((0..16).map(|_| kubelet.unpublish(&pod))).await {
        answer.expect("it is unpublished");
    }
    assert_eq!((leases(&server), node.mounts().len()), (HashSet::new(), 0));
    assert!(!node.seen(&pod.target()).exists());
}

/// Somebody of the same user has let a volume's disk go, and has another with its id elsewhere: the
/// driver remembers its own, and removes no other.
#[apply(test)]
async fn a_disk_that_took_its_id_elsewhere_stays(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let by_id = format!("/v1/disks/{}", pod.id());
    let release =
        || assert_eq!(server.client().ask("DELETE", &by_id, None).expect("an answer").status, 204);
    release();
    let other = node.kubelet_dir().join("pods/other.qcow2");
    let base = node.images().join("python.qcow2");
    let request = serde_json::json!({ "base": base, "target": other, "id": pod.id() });
    assert_eq!(server.post("/v1/acquire", &request).status, 200);
    for _ in 0..2 {
        let refused = kubelet.unpublish(&pod).await.expect_err("its id is another disk's");
        assert!(refused.message().contains("pods/other.qcow2"), "{refused:?}");
        assert!(node.seen(&other).exists());
    }
    release();
    assert!(!node.seen(&other).exists());
    kubelet.unpublish(&pod).await.expect("nothing is in its way");
    assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"]);
}

/// A Pod that runs as root may give its directory to another user and lock it. The server, which has no
/// capability, can't look into it then.
fn give_away(node: &Node, pod: &Pod) {
    let seen = node.seen(&pod.target());
    for name in ["disk.qcow2", "qemu.args", ""] {
        std::os::unix::fs::chown(seen.join(name), Some(1000), Some(1000)).expect("given away");
    }
    std::fs::set_permissions(&seen, std::fs::Permissions::from_mode(0o000)).expect("locked");
}

/// A kubelet that was started anew publishes the volumes of all Pods that run once more.
#[apply(test)]
async fn a_directory_that_a_pod_gave_away_is_published_again(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let before = disk(&node, &pod);
    give_away(&node, &pod);
    kubelet.publish(pod.request()).await.expect("it is published again");
    assert_eq!((disk(&node, &pod), leases(&server)), (before, HashSet::from([pod.id()])));
    kubelet.unpublish(&pod).await.expect("it is unpublished");
}

#[apply(test)]
async fn a_directory_that_a_pod_gave_away_is_taken_back(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pods = ["1", "2"].map(|uid| node.pod(uid));
    for pod in &pods {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
        give_away(&node, pod);
    }
    driver.kill();
    let [unpublished, forgotten] = pods;
    std::fs::remove_file(forgotten.record()).expect("it is forgotten");
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    kubelet.unpublish(&unpublished).await.expect("it is unpublished");
    eventually("the other is removed", || !node.seen(&forgotten.target()).exists()).await;
    assert!(!node.seen(&unpublished.target()).exists());
    eventually("no lease is left", || leases(&server).is_empty()).await;
    assert_eq!(node.mounts(), [""; 0]);
}

/// A caller that names another volume's directory removes nothing.
#[apply(test)]
async fn a_volume_goes_by_its_own_id_alone(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    kubelet.publish(pod.admit().request()).await.expect("it is published");
    let before = disk(&node, &pod);
    let refused = kubelet.unpublish_as("csi-other", &pod).await.expect_err("it is another's");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains(&pod.id()), "{refused:?}");
    assert_eq!((disk(&node, &pod), leases(&server)), (before, HashSet::from([pod.id()])));
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    kubelet.unpublish_as("csi-other", &pod).await.expect("nothing is there");
}

/// Does something until it is done, as the kubelet does, whoever is killed meanwhile.
async fn insist<F: Future<Output = Result<(), tonic::Status>>>(mut call: impl FnMut() -> F) {
    while let Err(status) = call().await {
        let open = [tonic::Code::Unavailable, tonic::Code::Aborted, tonic::Code::DeadlineExceeded];
        // Where the driver was killed it said nothing.
        assert!(open.contains(&status.code()) || status.metadata().is_empty(), "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Many volumes, while driver and server are killed at random: each is there once, and after them
/// nothing is.
#[apply(test)]
async fn none_is_lost_double_or_left(scratch: Scratch) {
    let count = number("OVERLAY_POOL_CHAOS_VOLUMES").unwrap_or(100);
    let kills = number("OVERLAY_POOL_CHAOS_KILLS").unwrap_or(10);
    let kills = usize::try_from(kills).expect("few");
    let seed = seed();
    println!("OVERLAY_POOL_SEED={seed} OVERLAY_POOL_CHAOS_VOLUMES={count}");
    let node = Arc::new(Node::new(&scratch));
    let mut processes = (node.start_server(), node.start_driver(&[]));
    let pods: Arc<Vec<Pod>> = Arc::new((0..count).map(|uid| node.pod(&uid.to_string())).collect());
    let kubelet = node.kubelet().await;
    let mut random = StdRng::seed_from_u64(seed);
    for publish in [true, false] {
        let done = Arc::new((AtomicBool::new(false), AtomicUsize::new(0)));
        let working =
            tokio::spawn(work(kubelet.clone(), Arc::clone(&pods), publish, Arc::clone(&done)));
        for kill in 1..=kills / 2 {
            // A part of the work later, wherever that is then.
            let part = pods.len() * kill / (kills / 2 + 1);
            let reached =
                || done.1.load(Ordering::Relaxed) >= part || done.0.load(Ordering::Relaxed);
            eventually("some are done", reached).await;
            tokio::time::sleep(Duration::from_micros(random.random_range(0..5000))).await;
            let (server, driver) = processes;
            if random.random_bool(0.5) {
                driver.kill();
                server.signal(Signal::KILL);
            } else {
                server.signal(Signal::KILL);
                driver.kill();
            }
            server.wait();
            processes = (node.start_server(), node.start_driver(&[]));
        }
        working.await.expect("all are done");
        let expected: HashSet<_> =
            if publish { pods.iter().map(Pod::id).collect() } else { HashSet::new() };
        assert_eq!(leases(&processes.0), expected);
        assert_eq!(node.mounts().len(), expected.len());
        if publish {
            let disks: HashSet<_> = pods.iter().map(|pod| disk(&node, pod)).collect();
            assert_eq!(disks.len(), pods.len(), "each has its own");
        }
    }
    for pod in pods.iter() {
        assert_eq!(names(pod.target().parent().expect("one")), ["vol_data.json"]);
    }
    let records = record_names(&node.kubelet_dir().join("plugins/pool/leases"));
    assert!(records.is_empty(), "{records:?}");
}

/// Has all Pods' volumes published, or unpublished, eight at a time.
async fn work(
    kubelet: Kubelet,
    pods: Arc<Vec<Pod>>,
    publish: bool,
    done: Arc<(AtomicBool, AtomicUsize)>,
) {
    use futures_util::StreamExt;
    let one = |pod: &Pod| {
        let (kubelet, pod, done) = (kubelet.clone(), pod.clone(), Arc::clone(&done));
        async move {
            if publish {
                pod.admit();
                insist(|| kubelet.publish(pod.request())).await;
            } else {
                insist(|| kubelet.unpublish(&pod)).await;
            }
            done.1.fetch_add(1, Ordering::Relaxed);
        }
    };
    futures_util::stream::iter(pods.iter().map(one)).buffer_unordered(8).collect::<()>().await;
    done.0.store(true, Ordering::Relaxed);
}

/// What the kubelet has forgotten is found by the next driver, and nothing else is touched.
#[apply(test)]
async fn what_is_forgotten_is_removed(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let (kept, forgotten) = (node.pod("1"), node.pod("2"));
    for pod in [&kept, &forgotten] {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
    }
    // Somebody else's disk, with a label of their own.
    let other = node.kubelet_dir().join("pods/other.qcow2");
    let base = node.images().join("python.qcow2");
    let request = serde_json::json!({ "base": base, "target": other, "id": "x", "owner": "other" });
    assert_eq!(server.post("/v1/acquire", &request).status, 200);
    driver.kill();
    std::fs::remove_file(forgotten.record()).expect("it is forgotten");
    let _driver = node.start_driver(&[]);
    eventually("it is removed", || !node.seen(&forgotten.target()).exists()).await;
    eventually("its lease too", || leases(&server) == HashSet::from([kept.id()])).await;
    disk(&node, &kept);
    assert!(other.exists());
    assert_eq!(node.mounts().len(), 1);
}

/// One that can't be removed keeps no other.
#[apply(test)]
async fn what_is_forgotten_and_stays_is_in_no_other_ones_way(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let pods = ["1", "2", "3"].map(|uid| node.pod(uid));
    for pod in &pods {
        kubelet.publish(pod.admit().request()).await.expect("it is published");
    }
    driver.kill();
    let [one, stays, other] = pods;
    for pod in [&one, &stays, &other] {
        std::fs::remove_file(pod.record()).expect("it is forgotten");
    }
    let target = stays.target();
    std::fs::rename(&target, target.with_file_name("moved")).expect("it is moved");
    std::fs::write(&target, "no directory").expect("a file");
    let _driver = node.start_driver(&[]);
    for pod in [&one, &other] {
        eventually("it is removed", || !node.seen(&pod.target()).exists()).await;
    }
    let theirs = HashSet::from([one.id(), other.id()]);
    eventually("their leases too", || leases(&server).is_disjoint(&theirs)).await;
}
