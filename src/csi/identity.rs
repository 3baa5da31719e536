//! Who the driver is: the service `csi.v1.Identity`.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::driver::Driver;
use super::messages::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse,
};
use super::service::{Answering, unary, unknown};

/// The name of the driver in Kubernetes.
pub const NAME: &str = "overlay-pool.csi";

/// Answers who the driver is.
#[derive(Clone, Debug)]
pub(super) struct Identity(pub(super) Arc<Driver>);

impl NamedService for Identity {
    const NAME: &'static str = "csi.v1.Identity";
}

impl Service<Request<Body>> for Identity {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let driver = Arc::clone(&self.0);
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
