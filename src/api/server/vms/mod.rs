//! VMs that run code, for the clients of a server.
//!
//! A VM is made for one program and destroyed after it, or kept as a session by the user who asked
//! for it. Which user that is, the kernel tells; others don't hear of it.

mod disk;
mod endpoints;
mod events;
mod execute;
mod figures;
mod fleet;
mod lease;
mod metrics;
mod problem;
mod refusals;
mod request;
mod sessions;
mod tenants;

use std::sync::Arc;

use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::{All, Shared};
use crate::api::wire::Problem;
pub use fleet::VmLimits;
pub(super) use fleet::Vms;

impl All {
    /// The VMs, if this server has any.
    fn vms(&self) -> Result<&Arc<Vms>, Problem> {
        self.vms.get().ok_or_else(|| {
            let detail = "this server runs no VMs: start it with --vms";
            Problem::new(StatusCode::NOT_FOUND, "no-vms", detail)
        })
    }
}

/// Whether a request may have to wait for a VM.
pub(super) fn is_about_vms(path: &str) -> bool {
    path == "/v1/execute" || path.starts_with("/v1/vms")
}

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(execute::execute))
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::look, endpoints::destroy))
        .routes(routes!(endpoints::run))
}
