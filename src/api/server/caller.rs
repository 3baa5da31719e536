//! Who asks, and which comes first: what was asked for, or the time-out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::connection::Channel;
use super::peers::Peer;
use super::turns::Turns;
use crate::api::wire::Problem;

/// What a request comes with.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) channel: Channel,
    pub(super) outcome: Outcome,
}

/// Whether a request is done or is answered with a time-out: whoever is first decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome(Arc<AtomicBool>);

impl Outcome {
    /// Whether nobody decided before.
    pub(super) fn decide(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Caller {
    /// Has work done that may wait for a disk, when it is this caller's turn. Once nobody waits for
    /// it any more it isn't begun, and ends when it next waits for anything; done after the
    /// time-out was answered, it is undone.
    ///
    /// # Errors
    ///
    /// A problem if there is no thread for it, or the work panicked.
    pub(super) async fn take_turn<T: Send + 'static>(
        self,
        turns: &Turns,
        work: impl Future<Output = T> + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, Problem> {
        let Self { peer, outcome, .. } = self;
        let (mut done, result) = oneshot::channel();
        let runtime = Handle::current();
        let until_closed = move |meanwhile| {
            tracing::debug!(%peer, meanwhile, "turn");
            if done.is_closed() {
                return;
            }
            let worked = runtime.block_on(async {
                tokio::select! {
                    biased;
                    worked = work => Some(worked),
                    () = done.closed() => None,
                }
            });
            match worked {
                Some(worked) if outcome.decide() => _ = done.send(worked),
                Some(worked) => undo(worked),
                None => {}
            }
        };
        turns.add(peer.uid(), until_closed).map_err(|error| {
            let detail = format!("no thread for the request: {error}; try again later");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-threads", detail)
        })?;
        result.await.map_err(|_| {
            let detail = "the request was given up; see the server's log";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
        })
    }

    /// Takes a turn for what leaves nothing to undo.
    pub(super) async fn look<T: Send + 'static>(
        self,
        turns: &Turns,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.take_turn(turns, async { work() }, drop).await
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.remove().ok_or_else(|| Problem::bad_request("nobody asks"))
    }
}
