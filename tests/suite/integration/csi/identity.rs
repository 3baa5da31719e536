//! Who a driver says that it is.

use tonic::{Code, Status};

use super::NODE;
use crate::harness::kubernetes::Node;
use crate::harness::kubernetes::messages::{
    Empty, NodeCapabilities, NodeInfo, PluginCapabilities, PluginInfo, Probed, Wrapped,
};
use crate::harness::prelude::*;

const NEEDS: &[Need] = NODE;

/// What the registrar and the kubelet ask first, without a server too.
#[apply(test)]
async fn a_driver_says_who_it_is(scratch: Scratch) {
    let node = Node::new(&scratch);
    let driver = node.start_driver(&["--max-volumes", "110"]);
    let kubelet = node.kubelet().await;
    for _ in 0..2 {
        let info: PluginInfo =
            kubelet.call("/csi.v1.Identity/GetPluginInfo", Empty {}).await.expect("an answer");
        assert_eq!(info.name, "overlay-pool.csi");
        assert_eq!(info.vendor_version, env!("CARGO_PKG_VERSION"));
        let has: PluginCapabilities = kubelet
            .call("/csi.v1.Identity/GetPluginCapabilities", Empty {})
            .await
            .expect("an answer");
        assert_eq!(has.capabilities, [], "there is no controller");
        let info: NodeInfo =
            kubelet.call("/csi.v1.Node/NodeGetInfo", Empty {}).await.expect("an answer");
        assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("node-1", 110));
        assert_eq!(info.accessible_topology, None);
        let can: NodeCapabilities =
            kubelet.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await.expect("an answer");
        let can: Vec<_> =
            can.capabilities.iter().filter_map(|one| Some(one.rpc.as_ref()?.number)).collect();
        assert_eq!(can, [2, 6], "GET_VOLUME_STATS and VOLUME_MOUNT_GROUP");
    }
    driver.stop();
    assert!(!scratch.join("kubelet/plugins/csi.sock").exists());
}

/// It is ready if its server answers, and goes on if it doesn't.
#[apply(test)]
async fn a_driver_is_ready_with_its_server(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let probe = || async {
        let probed: Result<Probed, Status> = kubelet.call("/csi.v1.Identity/Probe", Empty {}).await;
        probed.expect("an answer").ready
    };
    assert_eq!(probe().await, Some(Wrapped { value: false }));
    let server = node.start_server();
    assert_eq!(probe().await, Some(Wrapped { value: true }));
    server.stop();
    assert_eq!(probe().await, Some(Wrapped { value: false }));
}

/// Calls that no ephemeral volume needs.
#[apply(test)]
async fn what_it_has_not_it_says(scratch: Scratch) {
    let node = Node::new(&scratch);
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    for method in [
        "/csi.v1.Node/NodeStageVolume",
        "/csi.v1.Node/NodeExpandVolume",
        "/csi.v1.Controller/CreateVolume",
        "/csi.v1.Identity/Nothing",
    ] {
        let answer: Result<Empty, Status> = kubelet.call(method, Empty {}).await;
        assert_eq!(answer.expect_err("no answer").code(), Code::Unimplemented, "{method}");
    }
}
