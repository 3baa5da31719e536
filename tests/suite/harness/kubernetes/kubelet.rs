//! What asks a driver as the kubelet does, over gRPC.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::messages::{AskStats, Capability, Empty, Mount, Numbered, Publish, Stats, Unpublish};

/// `SINGLE_NODE_WRITER`, which ephemeral volumes have.
const SINGLE_NODE_WRITER: i32 = 1;

/// A kubelet's connection to a driver. It connects again if the driver was started again.
#[derive(Clone, Debug)]
pub(crate) struct Kubelet(Channel);

impl Kubelet {
    pub(crate) fn new(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        Self(endpoint.expect("an endpoint").connect_lazy())
    }

    pub(crate) async fn call<Q, A>(&self, method: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(format!("no driver: {error}")))?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(method);
        Ok(grpc.unary(Request::new(message), path, codec).await?.into_inner())
    }

    pub(crate) async fn publish(&self, request: Publish) -> Result<(), Status> {
        let answer: Result<Empty, _> = self.call("/csi.v1.Node/NodePublishVolume", request).await;
        answer.map(drop)
    }

    pub(crate) async fn unpublish(&self, pod: &Pod) -> Result<(), Status> {
        self.unpublish_as(&pod.id(), pod).await
    }

    /// As a faulty caller does, which names another volume.
    pub(crate) async fn unpublish_as(&self, id: &str, pod: &Pod) -> Result<(), Status> {
        let target_path = pod.target().display().to_string();
        let request = Unpublish { volume_id: id.to_owned(), target_path };
        let answer: Result<Empty, _> = self.call("/csi.v1.Node/NodeUnpublishVolume", request).await;
        answer.map(drop)
    }

    pub(crate) async fn stats(&self, pod: &Pod) -> Result<Stats, Status> {
        let request = AskStats {
            volume_id: pod.id(),
            volume_path: pod.target().display().to_string(),
            ..AskStats::default()
        };
        self.call("/csi.v1.Node/NodeGetVolumeStats", request).await
    }
}

/// A Pod with one volume.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    /// The kubelet's directory.
    pub(crate) kubelet: PathBuf,
    pub(crate) attributes: Vec<(&'static str, String)>,
    /// Its `fsGroup`.
    pub(crate) group: Option<u32>,
}

impl Pod {
    /// What the kubelet calls its volume.
    pub(crate) fn id(&self) -> String {
        format!("csi-{}", self.uid)
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.kubelet.join("pods").join(&self.uid)
    }

    /// Where the kubelet wants its volume.
    pub(crate) fn target(&self) -> PathBuf {
        self.directory().join("volumes/kubernetes.io~csi/disk/mount")
    }

    /// What the kubelet remembers of its volume.
    pub(crate) fn record(&self) -> PathBuf {
        self.target().with_file_name("vol_data.json")
    }

    /// Makes what the kubelet makes before it asks for a volume.
    pub(crate) fn admit(&self) -> &Self {
        let record = self.record();
        std::fs::create_dir_all(record.parent().expect("one")).expect("folders");
        std::fs::write(record, "{}").expect("a record");
        self
    }

    /// What the kubelet asks for.
    pub(crate) fn request(&self) -> Publish {
        let mut context: HashMap<_, _> = [
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "vm"),
            ("csi.storage.k8s.io/pod.namespace", "default"),
            ("csi.storage.k8s.io/pod.uid", self.uid.as_str()),
            ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        context
            .extend(self.attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let volume_mount_group = self.group.map(|group| group.to_string()).unwrap_or_default();
        Publish {
            volume_id: self.id(),
            target_path: self.target().display().to_string(),
            volume_capability: Some(Capability {
                mount: Some(Mount { volume_mount_group, ..Mount::default() }),
                access_mode: Some(Numbered { number: SINGLE_NODE_WRITER }),
                block: None,
            }),
            volume_context: context,
            ..Publish::default()
        }
    }
}
