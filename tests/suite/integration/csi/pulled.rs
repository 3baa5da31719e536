//! Images that were pulled from a registry, as Pods name them.

use std::os::unix::fs::MetadataExt;

use overlay_pool::image::Header;

use super::NODE;
use crate::harness::cli::run;
use crate::harness::kubernetes::Node;
use crate::harness::prelude::*;
use crate::harness::registry::{Registry, disk, images, sha256};

const NEEDS: &[Need] = NODE;

/// By its tag, by its digest, or by both, an image is the file that was pulled.
#[apply(test)]
#[needs(Registry)]
async fn a_reference_is_the_image_that_was_pulled(scratch: Scratch) {
    let registry = Registry::start(&scratch);
    let node = Node::new(&scratch);
    let _server = node.start_server();
    let _driver = node.start_driver(&[]);
    let kubelet = node.kubelet().await;
    let bytes = disk(1, 1);
    let digest = registry.put_disk("acme/python", "3.13", &bytes);
    let [tagged, pinned, both] =
        ["acme/python:3.13", "acme/python@", "acme/python:3.13@"].map(|name| {
            let digest = if name.ends_with('@') { digest.as_str() } else { "" };
            registry.image(&format!("{name}{digest}"))
        });
    let file = node.images().join(sha256(&bytes).replace(':', "/"));
    // None has another one's link.
    for (pulled, named) in [(&tagged, vec![&tagged]), (&pinned, vec![&pinned, &both])] {
        for image in &named {
            let mut pod = node.pod("early");
            pod.attributes = vec![("image", (*image).clone())];
            let refused = kubelet.publish(pod.admit().request()).await.expect_err("not yet");
            assert_eq!(refused.code(), tonic::Code::NotFound, "{refused:?}");
        }
        let mut pull = images(&scratch, &["pull", pulled]);
        let answer = run(pull.env("OVERLAY_POOL_STORE", node.images()));
        assert_eq!(answer.code, Some(0), "{answer}");
        for (uid, image) in named.into_iter().enumerate() {
            let mut pod = node.pod(&uid.to_string());
            pod.attributes = vec![("image", image.clone())];
            kubelet.publish(pod.admit().request()).await.expect("it is published");
            let seen = |name: &str| node.seen(&pod.target().join(name));
            let overlay = std::fs::read(seen("disk.qcow2")).expect("the overlay");
            let header = Header::parse(&overlay).expect("a header");
            assert_eq!(header.backing_file.as_ref(), Some(&file), "{image}");
            let [shown, pulled] = [seen("base.img"), file.clone()]
                .map(|file| std::fs::metadata(file).expect("the image"));
            assert_eq!((shown.dev(), shown.ino()), (pulled.dev(), pulled.ino()), "{image}");
            kubelet.unpublish(&pod).await.expect("it is unpublished");
        }
    }
    assert_eq!(std::fs::read(&file).expect("the image"), bytes);
    assert_eq!(node.mounts(), [""; 0]);
}
