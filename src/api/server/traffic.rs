//! What the server itself counts.

use axum::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Connections of clients, and requests that were answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) connections: Gauge,
    pub(super) requests: Family<[(&'static str, u16); 1], Counter>,
}

impl Traffic {
    /// Counts a connection until what this gives is dropped.
    pub(super) fn connection(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// Counts a request that was answered.
    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.get_or_create(&[("code", status.as_u16())]).inc();
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
