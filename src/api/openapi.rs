//! The routes, and the `OpenAPI` document that is made from them.

use axum::routing::get;
use axum::{Json, Router};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::server::Shared;
use super::{acquire, bases, status};

/// What stands at the head of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "overlay-pool",
        description = "A pool of ready qcow2 overlays, over HTTP/1.1 on a Unix socket."
    ),
    servers((url = "/", description = "The Unix socket that `overlay-pool serve` listens on.")),
    tags(
        (name = "overlays", description = "Overlays are handed over."),
        (name = "base images", description = "What overlays are kept ready of."),
        (name = "status", description = "How the pool does."),
    )
)]
struct Head;

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Head::openapi())
        .routes(routes!(acquire::acquire))
        .routes(routes!(acquire::open))
        .routes(routes!(bases::list, bases::add))
        .routes(routes!(bases::remove))
        .routes(routes!(bases::drain))
        .routes(routes!(bases::rescan))
        .routes(routes!(status::stats))
        .routes(routes!(status::live))
        .routes(routes!(status::ready))
}

/// The routes, with the document at `/openapi.json`.
pub(super) fn router() -> Router<Shared> {
    let (router, document) = routes().split_for_parts();
    router.route("/openapi.json", get(async || Json(document)))
}

/// The `OpenAPI` document of the server, as JSON.
#[must_use]
pub fn openapi() -> serde_json::Value {
    let document = routes().into_openapi();
    serde_json::to_value(document).unwrap_or_default()
}
