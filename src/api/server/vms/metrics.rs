//! The figures of VMs, as Prometheus reads them.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::figures::Figures;
use super::fleet::Vms;
use crate::api::server::series::{gauge, gauges};
use crate::vm;

impl Vms {
    /// Writes the figures as Prometheus reads them.
    pub(in crate::api::server) fn encode(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let manager = &self.manager;
        let wanted = manager.settings().warm.iter();
        let of = |language: vm::Language| [("language", language.as_str())];
        let ready = wanted.clone().map(|(language, _)| {
            (of(*language), u64::try_from(manager.warm_stats(*language).ready).unwrap_or(u64::MAX))
        });
        gauges(encoder, "vms_ready", "VMs that wait for code.", ready)?;
        let wanted = wanted.map(|(language, count)| (of(*language), u64::from(*count)));
        gauges(encoder, "vms_target", "VMs that shall wait for code.", wanted)?;
        let active = u64::try_from(manager.active_vms().len()).unwrap_or(u64::MAX);
        gauge(encoder, "vms_used", "VMs that clients have.", active)?;
        let sessions = u64::try_from(self.sessions.count()).unwrap_or(u64::MAX);
        gauge(encoder, "vm_sessions", "Those of them that their users keep.", sessions)?;
        let Figures { asks, programs, phases } = &self.figures;
        let help = "VMs that were asked for, by how they came to life: warm is a hit.";
        asks.encode(encoder.encode_descriptor("vm_asks", help, None, MetricType::Counter)?)?;
        let help = "Programs that were run, by how they ended.";
        programs.encode(encoder.encode_descriptor(
            "programs",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "How long each part of making a VM took, and its programs.";
        phases.encode(encoder.encode_descriptor(
            "vm_phase_duration",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?)
    }
}
