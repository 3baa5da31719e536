//! What `tonic` needs of a service, written by hand: a path is a method.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::{Request, Response};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;
use tower::Service;

use super::driver::Driver;

/// The largest message that is read, in bytes. The specification allows maps of 4 KiB and paths.
const LARGEST: usize = 64 << 10;

/// The methods of a service.
pub(super) trait Methods: Send + Sync + 'static {
    /// The service's name in the specification.
    const NAME: &'static str;

    /// Has a driver answer a request, by its path.
    fn call(driver: Arc<Driver>, request: Request<Body>) -> Answering;
}

/// A service with these methods.
#[derive(Debug)]
pub(super) struct Serving<M> {
    driver: Arc<Driver>,
    methods: PhantomData<fn() -> M>,
}

impl<M> Serving<M> {
    pub(super) fn by(driver: &Arc<Driver>) -> Self {
        Self { driver: Arc::clone(driver), methods: PhantomData }
    }
}

impl<M> Clone for Serving<M> {
    fn clone(&self) -> Self {
        Self::by(&self.driver)
    }
}

impl<M: Methods> NamedService for Serving<M> {
    const NAME: &'static str = M::NAME;
}

impl<M: Methods> Service<Request<Body>> for Serving<M> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        M::call(Arc::clone(&self.driver), request)
    }
}

/// An answer that will come.
pub(super) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Has one message answered by one.
///
/// Whoever asked may be gone before the answer: the work goes on in a task of its own, since half of
/// it is no state to leave a volume in.
pub(super) fn unary<Q, A, F>(
    request: Request<Body>,
    answer: impl FnOnce(Q) -> F + Clone + Send + Sync + 'static,
) -> Answering
where
    Q: Message + Default + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    Box::pin(async move {
        let method = tower::service_fn(move |asked: tonic::Request<Q>| {
            let working = tokio::spawn(answer.clone()(asked.into_inner()));
            async move {
                // Nobody knows how far it came, and this code says so.
                let failed =
                    |error| Err(Status::aborted(format!("a fault of the driver: {error}")));
                working.await.unwrap_or_else(failed).map(tonic::Response::new)
            }
        });
        let codec = ProstCodec::<A, Q>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(LARGEST);
        Ok(grpc.unary(method, request).await)
    })
}

/// The answer to a method that isn't there.
pub(super) fn unknown(request: &Request<Body>) -> Answering {
    let why = format!("{}: this driver has no such method", request.uri().path());
    Box::pin(std::future::ready(Ok(Status::unimplemented(why).into_http())))
}
