//! What handlers take from a request, with problems if it isn't there.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;

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
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Problem))]
pub(super) struct Body<T>(pub(super) T);

/// What stands in the path.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub(super) struct InPath<T>(pub(super) T);

/// What stands behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub(super) struct InQuery<T>(pub(super) T);
