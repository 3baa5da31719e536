//! What the server itself counts and times.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::pool::Source;

/// Connections of clients, requests that were answered, and how long handing overlays over took.
#[derive(Clone, Debug)]
pub(super) struct Traffic {
    pub(super) connections: Gauge,
    pub(super) requests: Family<[(&'static str, u16); 1], Counter>,
    /// Acquires on a started pool that failed before they came to it.
    pub(super) acquire_failures: Counter,
    /// By source, in seconds.
    pub(super) pooled: Histogram,
    pub(super) on_demand: Histogram,
}

impl Default for Traffic {
    fn default() -> Self {
        // 1 µs and 24 doublings, which is 16.8 s.
        let durations = || Histogram::new(exponential_buckets(1e-6, 2.0, 25));
        Self {
            connections: Gauge::default(),
            requests: Family::default(),
            acquire_failures: Counter::default(),
            pooled: durations(),
            on_demand: durations(),
        }
    }
}

impl Traffic {
    /// Counts a connection until what this gives is dropped.
    pub(super) fn connection(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// Times an overlay that was handed over.
    pub(super) fn handed_over(&self, source: Source, took: Duration) {
        let durations = match source {
            Source::Pooled => &self.pooled,
            Source::OnDemand => &self.on_demand,
        };
        durations.observe(took.as_secs_f64());
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
