//! How long something took, counted in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounded buckets: 1 µs and 24 doublings, which is 16.8 s. One more counts what took longer.
const BOUNDS: usize = 25;

/// Counts durations without a lock.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Durations {
    pub(crate) fn add(&self, took: Duration) {
        let bucket = (0..BOUNDS).find(|bucket| took <= bound(*bucket)).unwrap_or(BOUNDS);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn histogram(&self) -> Histogram {
        Histogram {
            counts: std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

/// Durations by bucket: up to 1 µs, up to 2 µs, and so on to 16.8 s, and all that are longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BOUNDS + 1],
    sum: Duration,
}

impl Histogram {
    /// The upper bound of each bucket, and how many durations are in it and not in the one
    /// before; the last bucket has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let counts = self.counts.iter().enumerate();
        counts.map(|(bucket, count)| ((bucket < BOUNDS).then(|| bound(bucket)), *count))
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

fn bound(bucket: usize) -> Duration {
    Duration::from_micros(1 << bucket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::{BOUNDS, Durations};

    #[rstest]
    #[case(Duration::ZERO, 0)]
    #[case(Duration::from_micros(1), 0)]
    #[case(Duration::from_nanos(1_001), 1)]
    #[case(Duration::from_micros(2), 1)]
    #[case(Duration::from_millis(1), 10)]
    #[case(Duration::from_micros(1 << 24), BOUNDS - 1)]
    #[case(Duration::from_secs(17), BOUNDS)]
    #[case(Duration::MAX, BOUNDS)]
    fn a_duration_is_in_the_first_bucket_that_holds_it(
        #[case] took: Duration,
        #[case] bucket: usize,
    ) {
        let durations = Durations::default();
        durations.add(took);
        let histogram = durations.histogram();
        let counts: Vec<_> = histogram.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts.iter().position(|count| *count == 1), Some(bucket));
        assert_eq!((histogram.count(), durations.count()), (1, 1));
    }

    #[test]
    fn the_sum_is_kept_to_the_nanosecond() {
        let durations = Durations::default();
        durations.add(Duration::from_nanos(1));
        durations.add(Duration::from_secs(20));
        assert_eq!(durations.histogram().sum(), Duration::new(20, 1));
    }
}
