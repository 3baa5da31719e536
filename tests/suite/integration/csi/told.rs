//! What a driver tells of itself and of its node's images.

use std::collections::BTreeSet;

use tonic::Code;

use super::NODE;
use crate::harness::http::{metrics_address, scrape};
use crate::harness::kubernetes::Node;
use crate::harness::prelude::*;
use crate::harness::registry::disk;
use crate::integration::server::monitoring;

const NEEDS: &[Need] = NODE;

/// How often what, with which code; and the dashboard looks at nothing else.
#[apply(test)]
async fn its_calls_are_counted(scratch: Scratch) {
    let node = Node::new(&scratch);
    let server = node.start_server();
    let driver = node.start_driver(&["--metrics-listen", "0"]);
    let kubelet = node.kubelet().await;
    let pod = node.pod("1");
    pod.admit();
    for _ in 0..2 {
        kubelet.publish(pod.request()).await.expect("it is published");
    }
    let mut other = node.pod("2");
    other.attributes = vec![("image", "missing.qcow2".to_owned())];
    other.admit();
    let refused = kubelet.publish(other.request()).await.expect_err("no such image");
    assert_eq!(refused.code(), Code::NotFound);
    kubelet.unpublish(&pod).await.expect("it is unpublished");
    let log = std::fs::read_to_string(scratch.join("driver.log")).expect("a log");
    let told = scrape(metrics_address(&log));
    assert_eq!(told.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        r#"overlay_pool_csi_calls_total{call="publish",code="Ok"} 2"#,
        r#"overlay_pool_csi_calls_total{call="publish",code="NotFound"} 1"#,
        r#"overlay_pool_csi_calls_total{call="unpublish",code="Ok"} 1"#,
        r#"overlay_pool_csi_call_duration_seconds_count{call="publish"} 3"#,
        "overlay_pool_csi_volumes_forgotten_total 0",
    ] {
        assert!(told.body.lines().any(|found| found == line), "{line}\n{}", told.body);
    }
    let of_driver = |name: &String| name.starts_with("overlay_pool_csi_");
    let looked_at: BTreeSet<_> = monitoring::looked_at().into_iter().filter(of_driver).collect();
    let names = monitoring::told(&told.body);
    assert!(!looked_at.is_empty() && looked_at.is_subset(&names), "{looked_at:?} {names:?}");
    driver.stop();
    server.stop();
}

/// With and without a server; and it follows what is there.
#[apply(test)]
async fn the_node_s_images_are_told(scratch: Scratch) {
    let node = Node::new(&scratch);
    std::fs::create_dir(scratch.join("features.d")).expect("a folder");
    let file = scratch.join("features.d/overlay-pool");
    let told = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let driver = node.start_driver(&["--image-labels", file.to_str().expect("a plain path")]);
    let one = ["image.overlay-pool.csi/python.qcow2=true"];
    eventually("it is told", || told() == one).await;
    std::fs::write(node.images().join("node.qcow2"), disk(0, 1)).expect("an image");
    let both = ["image.overlay-pool.csi/node.qcow2=true", one[0]];
    eventually("the new one is told", || told() == both).await;
    driver.kill();
    assert_eq!(told(), both, "it is true as long as nothing changes");
    std::fs::remove_file(node.images().join("node.qcow2")).expect("removed");
    let driver = node.start_driver(&["--image-labels", file.to_str().expect("a plain path")]);
    eventually("it is gone", || told() == one).await;
    driver.stop();
    assert_eq!(super::names(&scratch.join("features.d")), ["overlay-pool"]);
}
