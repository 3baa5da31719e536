//! What handlers take from a request, with problems where it isn't there.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query};

use crate::api::wire::Problem;

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
