//! The routes, and the `OpenAPI` document that is made from them.

use std::sync::LazyLock;

use axum::{Json, Router};
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{OpenApi, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::leases;
use super::refusals::Looking;
use super::state::Shared;
#[cfg(feature = "vm")]
use super::vms;
use super::{acquire, bases, metrics, status};
use crate::api::wire::Problem;
use crate::image::Format;

/// What stands at the head of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "overlay-pool",
        description = "A pool of ready qcow2 overlays, and of VMs on them that run code, over HTTP/1.1 on \
                       a Unix socket. Errors come as problem details (RFC 9457)."
    ),
    components(schemas(Problem)),
    servers((url = "/", description = "The Unix socket that `overlay-pool serve` listens on.")),
    tags(
        (name = "overlays", description = "Overlays are handed over."),
        (name = "base images", description = "What overlays are kept ready of."),
        (name = "virtual machines", description = "VMs on overlays run code."),
        (name = "status", description = "How the pool does."),
    )
)]
struct Head;

impl PartialSchema for Format {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some([Self::Qcow2, Self::Raw].map(Self::as_str)))
            .description(Some("The format of a base image, as the overlay records it."))
            .into()
    }
}

impl ToSchema for Format {}

/// What an overlay pool answers.
fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(acquire::acquire))
        .routes(routes!(acquire::open))
        .merge(leases::routes())
        .routes(routes!(bases::list, bases::add))
        .routes(routes!(bases::remove))
        .routes(routes!(bases::drain))
        .routes(routes!(bases::rescan))
        .routes(routes!(status::stats))
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(document))
}

/// Describes what can be asked for, in the form of `OpenAPI` 3.1.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "status",
    operation_id = "openapi",
    responses((status = 200, description = "This document.", body = Value), Looking)
)]
async fn document() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi);
    Json(&DOCUMENT)
}

/// All routes, with those of VMs if the program has them.
fn all_routes() -> OpenApiRouter<Shared> {
    #[cfg(feature = "vm")]
    return routes().merge(vms::routes());
    #[cfg(not(feature = "vm"))]
    routes()
}

/// The routes, with the document at `/openapi.json`.
pub(super) fn router() -> Router<Shared> {
    all_routes().into()
}

/// The `OpenAPI` document of the server, as JSON.
#[must_use]
pub fn openapi() -> Value {
    let document = all_routes().into_openapi();
    let mut document = serde_json::to_value(document).unwrap_or_default();
    // What utoipa has no word for: whoever gives one gives the other too.
    document["components"]["schemas"]["AcquireRequest"]["dependentRequired"] =
        json!({ "owner": ["id"] });
    document
}
