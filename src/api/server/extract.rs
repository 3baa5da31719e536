//! What handlers take from a request, with problems if it isn't there.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::caller::Caller;
use crate::api::wire::Problem;

/// That the client is root or the server's own user.
pub(super) struct Administrator;

impl<S: Sync> FromRequestParts<S> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        if caller.is_some_and(|caller| caller.peer.is_administrator()) {
            return Ok(Self);
        }
        let detail = "only root and the user that the server runs as may do this";
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_none_or(|kind| kind != "application/json") {
            let Json(body) = Json::from_request(request, state).await?;
            return Ok(Self(body));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(JsonRejection::from)?;
        if let Ok(body) = serde_json::from_slice(&bytes) {
            return Ok(Self(body));
        }
        // Again, since it says where it is wrong, which costs as much as all else of it.
        let Json(body) = Json::from_bytes(&bytes)?;
        Ok(Self(body))
    }
}

/// What stands in the path.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub(super) struct InPath<T>(pub(super) T);

/// What stands behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub(super) struct InQuery<T>(pub(super) T);
