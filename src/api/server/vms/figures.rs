//! What is counted and timed of VMs.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::vm::{self, End, Language, Outcome, Start, Vm, VmError};

type Labels = [(&'static str, &'static str); 2];

/// Counters and histograms.
#[derive(Debug)]
pub(super) struct Figures {
    /// VMs that were asked for, by language and how they came to life.
    pub(super) asks: Family<Labels, Counter>,
    /// Programs, by language and how they ended.
    pub(super) programs: Family<Labels, Counter>,
    /// How long what took, in seconds, by how the VM came to life.
    pub(super) phases: Family<Labels, Histogram>,
}

impl Default for Figures {
    fn default() -> Self {
        // 10 µs and 23 doublings, which is 84 s.
        let durations = || Histogram::new(exponential_buckets(1e-5, 2.0, 24));
        Self {
            asks: Family::default(),
            programs: Family::default(),
            phases: Family::new_with_constructor(durations),
        }
    }
}

impl Figures {
    pub(super) fn created(&self, language: Language, vm: &Vm) {
        let start = start(vm);
        self.asks.get_or_create(&[("language", language.as_str()), ("start", start)]).inc();
        let vm::Phases { overlay, spawn, boot, renew } = vm.phases();
        let phases = [("overlay", overlay), ("spawn", spawn), ("boot", boot), ("renew", renew)];
        for (phase, took) in phases {
            // One that waited has only been renewed, since it was asked for.
            if start != "warm" || phase == "renew" {
                let labels = [("start", start), ("phase", phase)];
                self.phases.get_or_create(&labels).observe(took.as_secs_f64());
            }
        }
    }

    pub(super) fn not_created(&self, language: Language) {
        self.asks.get_or_create(&[("language", language.as_str()), ("start", "failed")]).inc();
    }

    /// A program has ended, or its VM has.
    pub(super) fn ran(&self, vm: &Vm, outcome: &Result<Outcome, VmError>) {
        let end = match outcome {
            Ok(Outcome { end: End::Code(_), .. }) => "exit",
            Ok(Outcome { end: End::Signal(_), .. }) => "signal",
            Ok(Outcome { end: End::TimedOut, .. }) => "timed-out",
            Err(_) => "failed",
        };
        self.program(vm, end);
        if let Ok(Outcome { elapsed, .. }) = outcome {
            let labels = [("start", start(vm)), ("phase", "execute")];
            self.phases.get_or_create(&labels).observe(elapsed.as_secs_f64());
        }
    }

    /// The client of a program went away.
    pub(super) fn given_up(&self, vm: &Vm) {
        self.program(vm, "given-up");
    }

    fn program(&self, vm: &Vm, end: &'static str) {
        let labels = [("language", vm.language().as_str()), ("end", end)];
        self.programs.get_or_create(&labels).inc();
    }
}

fn start(vm: &Vm) -> &'static str {
    match vm.start() {
        Some(Start::Warm) => "warm",
        Some(Start::Resumed) => "resumed",
        Some(Start::Booted) | None => "booted",
    }
}
