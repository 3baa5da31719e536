//! `GET /metrics`: the pool's figures in Prometheus' text format.
//!
//! | metric | labels | what it is |
//! | --- | --- | --- |
//! | `overlay_pool_build_info` | `version` | always 1 |
//! | `overlay_pool_overlays_ready` | `base`, `format` | ready overlays |
//! | `overlay_pool_overlays_stale` | `base`, `format` | those of them that will be discarded, since the base image changed |
//! | `overlay_pool_overlays_pending` | `base`, `format` | overlays that are being made ahead |
//! | `overlay_pool_overlays_target` | `base`, `format` | how many overlays shall be ready |
//! | `overlay_pool_acquires_total` | `source` | overlays that were handed over |
//! | `overlay_pool_acquire_failures_total` | | acquires that ended in an error |
//! | `overlay_pool_acquire_duration_seconds` | `source` | histogram: how long handing over took, 1 µs to 16.8 s |
//! | `overlay_pool_overlays_discarded_total` | | ready overlays that were removed instead of handed over |
//! | `overlay_pool_held_bases_changed_total` | `change` | base images that changed under overlays that were handed over: `replaced` by another file, size or time of modification, or `maybe` (only the time of change differs) |
//! | `overlay_pool_disks_leased` | | disks that were acquired with an id |
//! | `overlay_pool_creations_total` | `creator`, `result` | overlays made, ahead and on demand, and failures to |
//! | `overlay_pool_restocking` | `state` | 1 for the state that restocking is in: `on`, `off`, `drained`, `low-space` |
//! | `overlay_pool_free_bytes` | | free space on the pool directory's filesystem |
//! | `overlay_pool_free_inodes` | | how many more files that filesystem takes |
//! | `overlay_pool_http_connections` | | connections of clients |
//! | `overlay_pool_http_requests_total` | `code` | requests that were answered, by HTTP status |
//!
//! A server that runs VMs has these too:
//!
//! | metric | labels | what it is |
//! | --- | --- | --- |
//! | `overlay_pool_vms_ready` | `language` | VMs that wait for code |
//! | `overlay_pool_vms_target` | `language` | how many VMs shall wait for code |
//! | `overlay_pool_vms_used` | | VMs that clients have |
//! | `overlay_pool_vm_sessions` | | those of them that their users keep |
//! | `overlay_pool_vm_asks_total` | `language`, `start` | VMs that were asked for: `warm` is a hit, `resumed` and `booted` are misses, `failed` were none |
//! | `overlay_pool_programs_total` | `language`, `end` | programs that were run: `exit`, `signal`, `timed-out`, `failed`, or `given-up` since the client went away |
//! | `overlay_pool_vm_phase_duration_seconds` | `start`, `phase` | histogram: how long `overlay`, `spawn`, `boot`, `renew` and `execute` took, 10 µs to 84 s; VMs that waited are only renewed |
//!
//! The last two of the filesystem are left out if it can't be told. Counters are those of the
//! server's process: after a restart they begin at 0. In a `base` that isn't UTF-8 a byte that
//! isn't is `\xNN`, and in each a backslash is doubled.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustix::process::geteuid;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot};

use super::bases::states;
use super::caller::Caller;
use super::refusals::Looking;
use super::restocking::{Restocking, Space};
use super::series::{counter, counters, gauge, gauges};
use super::state::Shared;
use super::traffic::Traffic;
use crate::api::wire::{BaseState, Problem};
use crate::paths;
use crate::pool::Stats;
use crate::scrape;

/// Gives the pool's figures in Prometheus' text format, version 0.0.4.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "status",
    responses(
        (status = 200, description = "The figures.", body = String, content_type = "text/plain",
         example = "overlay_pool_acquires_total{source=\"pooled\"} 17\n"),
        Looking,
    )
)]
pub(super) async fn metrics(
    State(shared): State<Shared>,
    caller: Caller,
) -> Result<impl IntoResponse, Problem> {
    let turns = shared.turns.clone();
    let text = caller.look(&turns, move || text(shared)).await?;
    Ok(([(header::CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], text))
}

/// Answers whoever connects to `listener`. Never ends.
pub(super) async fn answer(listener: TcpListener, shared: Shared) {
    // One after the other, and if a disk doesn't answer, it keeps that one: whoever asks over TCP
    // takes nobody else's turns.
    let one = Arc::new(Mutex::new(()));
    let text = move || {
        let (shared, one) = (Arc::clone(&shared), Arc::clone(&one));
        async move {
            let turn = one.lock_owned().await;
            let (done, made) = oneshot::channel();
            let turns = shared.turns.clone();
            let make = move |_| {
                let _ = done.send(text(shared));
                drop(turn);
            };
            turns.add(geteuid().as_raw(), make).ok()?;
            made.await.ok()
        }
    };
    scrape::serve(listener, text).await;
}

fn text(shared: Shared) -> String {
    let mut registry = Registry::with_prefix("overlay_pool");
    registry.register(
        "build",
        "The server's version", // the full stop is put there
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry.register_collector(Box::new(Scrape(shared)));
    let mut text = String::new();
    // Nothing here fails: it is all written to memory.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

/// The figures as they are when they are asked for.
#[derive(Debug)]
struct Scrape(Shared);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let stats = self.0.stats();
        self.overlays(encoder)?;
        self.acquires(encoder, &stats)?;
        self.creations(encoder, &stats)?;
        self.space(encoder)?;
        self.traffic(encoder)?;
        #[cfg(feature = "vm")]
        if let Some(vms) = self.0.vms.get() {
            vms.encode(encoder)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn overlays(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let bases = states(&self.0);
        let mut family = |name, help, value: fn(&BaseState) -> usize| {
            let of = |base: &BaseState| (base_labels(base), value(base) as u64);
            gauges(encoder, name, help, bases.iter().map(of))
        };
        family("overlays_ready", "Ready overlays.", |base| base.ready)?;
        family(
            "overlays_stale",
            "Ready overlays that will be discarded, since their base image changed.",
            |base| base.stale,
        )?;
        family("overlays_pending", "Overlays that are being made ahead.", |base| base.pending)?;
        family("overlays_target", "Overlays that shall be ready.", |base| base.target)
    }

    fn acquires(&self, encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
        let by_source = [("pooled", stats.pooled), ("on-demand", stats.on_demand)];
        counters(
            encoder,
            "acquires",
            "Overlays that were handed over, by where they came from.",
            by_source.map(|(source, count)| ([("source", source)], count)),
        )?;
        counter(encoder, "acquire_failures", "Acquires that ended in an error.", stats.failed)?;
        let Traffic { pooled, on_demand, .. } = &self.0.traffic;
        let mut durations = encoder.encode_descriptor(
            "acquire_duration",
            "How long handing an overlay over took the pool.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (source, took) in [("pooled", pooled), ("on-demand", on_demand)] {
            took.encode(durations.encode_family(&[("source", source)])?)?;
        }
        counter(
            encoder,
            "overlays_discarded",
            "Ready overlays that were removed instead of handed over.",
            stats.discarded,
        )?;
        counters(
            encoder,
            "held_bases_changed",
            "Base images that changed under overlays that were handed over.",
            self.0.held.changes().map(|(change, count)| ([("change", change)], count)),
        )?;
        let leased = self.0.leases.read().map_or(0, |book| book.count() as u64);
        gauge(encoder, "disks_leased", "Disks that were acquired with an id.", leased)
    }

    fn creations(&self, encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
        let creator = ("creator", self.0.pool.config().creator.as_str());
        let by_result = [("success", stats.created), ("failure", stats.create_failed)];
        counters(
            encoder,
            "creations",
            "Overlays that were made, ahead and on demand, and those that could not be.",
            by_result.map(|(result, count)| ([creator, ("result", result)], count)),
        )
    }

    fn space(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = Restocking::of(&self.0.pool);
        let states = [
            ("on", Restocking::On),
            ("off", Restocking::Off),
            ("drained", Restocking::Drained),
            ("low-space", Restocking::LowSpace),
        ];
        gauges(
            encoder,
            "restocking",
            "Whether overlays are made ahead: 1 for the state that this is in.",
            states.map(|(name, state)| ([("state", name)], u64::from(state == now))),
        )?;
        let Some(space) = Space::of(&self.0.pool) else { return Ok(()) };
        let help = "Free space on the filesystem of the pool directory.";
        ConstGauge::new(space.bytes_free).encode(encoder.encode_descriptor(
            "free",
            help,
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        let Some(inodes) = space.inodes_free else { return Ok(()) };
        let help = "How many more files the filesystem of the pool directory takes.";
        gauge(encoder, "free_inodes", help, inodes)
    }

    fn traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Traffic { connections, requests, .. } = &self.0.traffic;
        let help = "Connections of clients.";
        connections.encode(encoder.encode_descriptor(
            "http_connections",
            help,
            None,
            MetricType::Gauge,
        )?)?;
        let help = "Requests that were answered, by HTTP status.";
        requests.encode(encoder.encode_descriptor(
            "http_requests",
            help,
            None,
            MetricType::Counter,
        )?)
    }
}

fn base_labels(base: &BaseState) -> [(&'static str, String); 2] {
    [("base", label(&base.path)), ("format", base.format.to_string())]
}

/// A path as a label's value: no two paths have the same.
fn label(path: &Path) -> String {
    paths::text(path, |valid| valid.replace('\\', r"\\"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use rstest::rstest;

    use super::label;

    #[rstest]
    #[case::plain("/images/Grüße 雪.qcow2".as_bytes(), "/images/Grüße 雪.qcow2")]
    #[case::not_utf8(b"/a\xff\xc3b", r"/a\xff\xc3b")]
    #[case::looks_like_it(br"/a\xff", r"/a\\xff")]
    fn no_two_paths_have_the_same_label(#[case] path: &[u8], #[case] expected: &str) {
        assert_eq!(label(OsStr::from_bytes(path).as_ref()), expected);
    }
}
