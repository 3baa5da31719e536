//! What the driver counts, for Prometheus.
//!
//! | metric | labels | what it is |
//! | --- | --- | --- |
//! | `overlay_pool_csi_build_info` | `version` | always 1 |
//! | `overlay_pool_csi_calls_total` | `call`, `code` | volumes that the kubelet had published and unpublished, by gRPC's code |
//! | `overlay_pool_csi_call_duration_seconds` | `call` | histogram: how long that took, 100 µs to 52 s |
//! | `overlay_pool_csi_volumes_forgotten_total` | | volumes that were removed since the kubelet had forgotten them |

use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

/// What was done since the driver started.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    calls: Family<[(&'static str, String); 2], Counter>,
    durations: Family<[(&'static str, &'static str); 1], Histogram>,
    pub(super) forgotten: Counter,
}

impl Default for Figures {
    fn default() -> Self {
        // 100 µs and 19 doublings.
        let durations = || Histogram::new(exponential_buckets(1e-4, 2.0, 20));
        Self {
            calls: Family::default(),
            durations: Family::new_with_constructor(durations),
            forgotten: Counter::default(),
        }
    }
}

impl Figures {
    /// Counts a call that was answered.
    pub(super) fn answered(&self, call: &'static str, code: Code, took: Duration) {
        self.calls.get_or_create(&[("call", call.to_owned()), ("code", format!("{code:?}"))]).inc();
        self.durations.get_or_create(&[("call", call)]).observe(took.as_secs_f64());
    }

    /// All of it, in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let mut registry = Registry::with_prefix("overlay_pool_csi");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The driver's version", version);
        let help = "Volumes that the kubelet had published and unpublished, by the code of gRPC";
        registry.register("calls", help, self.calls.clone());
        let help = "How long publishing and unpublishing a volume took";
        registry.register_with_unit("call_duration", help, Unit::Seconds, self.durations.clone());
        let help = "Volumes that were removed since the kubelet had forgotten them";
        registry.register("volumes_forgotten", help, self.forgotten.clone());
        let mut text = String::new();
        // Nothing here fails: it is all written to memory.
        let _ = prometheus_text::encode(&mut text, &registry);
        text
    }
}
