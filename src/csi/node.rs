//! Volumes on this node: the service `csi.v1.Node`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hyper::Request;
use tonic::Code;
use tonic::body::Body;

use super::driver::Driver;
use super::messages::{
    CapabilityType, NodeCapability, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, RpcCapability, Unit, VolumeUsage,
};
use super::refusal::Refusal;
use super::request::{self, Publish, RequestError};
use super::service::{Answering, Methods, unary, unknown};
use super::volume::Usage;
use crate::api::Label;

/// Answers what is done with volumes.
pub(super) struct Node;

impl Methods for Node {
    const NAME: &'static str = "csi.v1.Node";

    fn call(driver: Arc<Driver>, request: Request<Body>) -> Answering {
        match request.uri().path() {
            "/csi.v1.Node/NodePublishVolume" => {
                unary(request, move |asked| async move { Ok(publish(&driver, asked).await?) })
            }
            "/csi.v1.Node/NodeUnpublishVolume" => {
                unary(request, move |asked| async move { Ok(unpublish(&driver, asked).await?) })
            }
            "/csi.v1.Node/NodeGetVolumeStats" => {
                unary(request, move |asked| async move { Ok(stats(&driver, asked).await?) })
            }
            "/csi.v1.Node/NodeGetCapabilities" => {
                unary(request, |NodeGetCapabilitiesRequest {}| async { Ok(capabilities()) })
            }
            "/csi.v1.Node/NodeGetInfo" => unary(request, move |NodeGetInfoRequest {}| async move {
                let max = i64::try_from(driver.max_volumes()).unwrap_or(i64::MAX);
                let node_id = driver.node_id().to_owned();
                Ok(NodeGetInfoResponse { node_id, max_volumes_per_node: max })
            }),
            _ => unknown(&request),
        }
    }
}

async fn publish(
    driver: &Driver,
    request: NodePublishVolumeRequest,
) -> Result<NodePublishVolumeResponse, Refusal> {
    let target = request::path("target_path", &request.target_path);
    let request = match (Publish::try_from(request), target) {
        (Err(error), Ok(target)) => return Err(driver.unless_there(&target, error.into()).await),
        (request, _) => request?,
    };
    let begun = Instant::now();
    let done = driver.publish(&request).await;
    driver.figures.answered("publish", code(&done), begun.elapsed());
    log(&done, "published", &request.id, &request.target);
    done.map(|()| NodePublishVolumeResponse {})
}

async fn unpublish(
    driver: &Driver,
    request: NodeUnpublishVolumeRequest,
) -> Result<NodeUnpublishVolumeResponse, Refusal> {
    let id = request::id(request.volume_id)?;
    let target = request::path("target_path", &request.target_path)?;
    let begun = Instant::now();
    let done = driver.unpublish(&id, &target).await;
    driver.figures.answered("unpublish", code(&done), begun.elapsed());
    log(&done, "unpublished", &id, &target);
    done.map(|()| NodeUnpublishVolumeResponse {})
}

fn code(done: &Result<(), Refusal>) -> Code {
    done.as_ref().err().map_or(Code::Ok, Refusal::code)
}

fn log(done: &Result<(), Refusal>, what: &str, id: &Label, target: &Path) {
    let (id, target) = (id.as_str(), target.display());
    match done {
        Ok(()) => tracing::info!(id, %target, "{what}"),
        Err(refusal) => tracing::warn!(id, %target, code = ?refusal.code(), "{refusal}"),
    }
}

async fn stats(
    driver: &Driver,
    request: NodeGetVolumeStatsRequest,
) -> Result<NodeGetVolumeStatsResponse, Refusal> {
    let NodeGetVolumeStatsRequest { volume_id, volume_path } = request;
    let id = request::id(volume_id)?;
    if volume_path.is_empty() {
        return Err(RequestError::Missing("volume_path").into());
    }
    // At a path that none can have is no volume.
    let path = request::path("volume_path", &volume_path);
    let path =
        path.map_err(|_| Refusal::NotPublished { id: id.as_str().to_owned(), path: volume_path })?;
    let Usage { total, used, available } = driver.usage(&id, path).await?;
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    let usage = VolumeUsage {
        available: signed(available),
        total: signed(total),
        used: signed(used),
        unit: Unit::Bytes.into(),
    };
    Ok(NodeGetVolumeStatsResponse { usage: vec![usage] })
}

fn capabilities() -> NodeGetCapabilitiesResponse {
    let capability = |capability: NodeCapability| {
        let rpc = RpcCapability { capability: capability.into() };
        NodeServiceCapability { capability: Some(CapabilityType::Rpc(rpc)) }
    };
    let known = [NodeCapability::GetVolumeStats, NodeCapability::VolumeMountGroup];
    NodeGetCapabilitiesResponse { capabilities: known.map(capability).into() }
}
