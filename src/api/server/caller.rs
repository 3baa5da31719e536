//! Who asks, and which comes first: what was asked for, or the time-out.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::connection::{Channel, Listening};
use super::peers::Peer;
use super::resumed;
use super::turns::Turns;
use crate::api::wire::Problem;

/// What a request comes with.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) channel: Channel,
    pub(super) outcome: Outcome,
    /// Its place among the requests that are in progress.
    #[expect(dead_code, reason = "it is held")]
    pub(super) place: Arc<Option<OwnedSemaphorePermit>>,
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

/// What was done for a caller. Dropped before it was taken, it is undone, at a turn.
struct Done<T: Send + 'static, U: FnOnce(T) + Send + 'static> {
    turns: Turns,
    made: Option<(Caller, Listening, T, U)>,
}

impl<T: Send + 'static, U: FnOnce(T) + Send + 'static> Done<T, U> {
    fn take(mut self) -> Option<T> {
        self.made.take().map(|(_, _, value, _)| value)
    }
}

impl<T: Send + 'static, U: FnOnce(T) + Send + 'static> Drop for Done<T, U> {
    fn drop(&mut self) {
        let Some((caller, _, value, undo)) = self.made.take() else { return };
        let undone = self.turns.add(caller.peer.uid(), move |_| {
            undo(value);
            drop(caller);
        });
        if let Err(error) = undone {
            tracing::error!(%error, "no thread to take back what nobody waits for");
        }
    }
}

impl Caller {
    /// Has work done that may wait for a disk, when it is this caller's turn; begun on that turn's
    /// thread, so that only what it begins with is moved there. Where no other work waits then, that
    /// thread answers too. Once the client hung up it isn't begun, and ends when it next waits for
    /// anything; what is done by then is answered. Done after the time-out was answered, it is undone.
    /// The connection isn't closed before, so that a client that sees its end sees what is left.
    ///
    /// # Errors
    ///
    /// A problem if there is no thread for it, or the work panicked.
    pub(super) async fn take_turn<T: Send + 'static>(
        self,
        turns: &Turns,
        work: impl AsyncFnOnce(&Self) -> T + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, Problem> {
        let (mut done, result) = oneshot::channel();
        let (runtime, uid, threads) = (Handle::current(), self.peer.uid(), turns.clone());
        let until_closed = move |meanwhile| {
            let caller = self;
            tracing::debug!(peer = %caller.peer, meanwhile, "turn");
            let worked = {
                let mut work = pin!(work(&caller));
                runtime.block_on(poll_fn(|cx| {
                    // What is done from here on is answered, and what hung up before has it not done.
                    let listening = caller.channel.listening();
                    let Some(listening) = listening.filter(|_| done.poll_closed(cx).is_pending())
                    else {
                        return Poll::Ready(None);
                    };
                    work.as_mut().poll(cx).map(|value| Some((listening, value)))
                }))
            };
            let Some((listening, value)) = worked else { return };
            let is_first = caller.outcome.decide();
            let made = Some((caller, listening, value, undo));
            let made = Done { turns: threads.clone(), made };
            if !is_first {
                return;
            }
            let answer = || drop(done.send(made));
            if let Some(answer) = threads.answer(uid, answer) {
                resumed::here(answer);
            }
        };
        turns.add(uid, until_closed).map_err(|error| {
            let detail = format!("no thread for the request: {error}; try again later");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-threads", detail)
        })?;
        result.await.ok().and_then(Done::take).ok_or_else(|| {
            let detail = "the request was given up; see the server's log";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail)
        })
    }

    /// The same caller, for something that is looked at before the request itself: with that it isn't
    /// done.
    #[cfg(feature = "vm")]
    pub(super) fn ahead(&self) -> Self {
        Self { outcome: Outcome::default(), ..self.clone() }
    }

    /// Takes a turn for what leaves nothing to undo.
    pub(super) async fn look<T: Send + 'static>(
        self,
        turns: &Turns,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        self.take_turn(turns, async move |_| work(), drop).await
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.remove().ok_or_else(|| Problem::bad_request("nobody asks"))
    }
}
