//! Who the driver is: the service `csi.v1.Identity`.

use std::sync::Arc;

use hyper::Request;
use tonic::body::Body;

use super::driver::Driver;
use super::messages::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse,
};
use super::service::{Answering, Methods, unary, unknown};

/// The name of the driver in Kubernetes.
pub const NAME: &str = "overlay-pool.csi";

/// Answers who the driver is.
pub(super) struct Identity;

impl Methods for Identity {
    const NAME: &'static str = "csi.v1.Identity";

    fn call(driver: Arc<Driver>, request: Request<Body>) -> Answering {
        match request.uri().path() {
            "/csi.v1.Identity/GetPluginInfo" => unary(request, |GetPluginInfoRequest {}| async {
                let vendor_version = env!("CARGO_PKG_VERSION").to_owned();
                Ok(GetPluginInfoResponse { name: NAME.to_owned(), vendor_version })
            }),
            "/csi.v1.Identity/GetPluginCapabilities" => {
                unary(request, |GetPluginCapabilitiesRequest {}| async {
                    Ok(GetPluginCapabilitiesResponse {})
                })
            }
            "/csi.v1.Identity/Probe" => unary(request, move |ProbeRequest {}| async move {
                Ok(ProbeResponse { ready: Some(driver.is_ready().await) })
            }),
            _ => unknown(&request),
        }
    }
}
