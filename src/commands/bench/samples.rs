//! How long calls of one kind took.

use std::time::Duration;

/// The durations of calls of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    pub(super) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that `percent` of all samples don't exceed; none of no samples.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }

    /// How many such calls one caller makes in a second, one after the other.
    pub(super) fn per_second(&self) -> f64 {
        per_second(self.0.len(), self.0.iter().sum())
    }
}

/// How often something happens in a second that happened `count` times in `took`.
pub(super) fn per_second(count: usize, took: Duration) -> f64 {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    f64::from(count) / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, 50, Some(1))]
    #[case(1, 99, Some(1))]
    #[case(2, 50, Some(1))]
    #[case(3, 50, Some(2))]
    #[case(100, 50, Some(50))]
    #[case(100, 99, Some(99))]
    #[case(1000, 99, Some(990))]
    #[case(0, 50, None)]
    fn percentile_is_the_nearest_rank(
        #[case] samples: u64,
        #[case] percent: usize,
        #[case] nanos: Option<u64>,
    ) {
        let samples = Samples((1..=samples).rev().map(Duration::from_nanos).collect());
        assert_eq!(samples.percentile(percent), nanos.map(Duration::from_nanos));
    }

    #[rstest]
    fn rate_is_the_count_by_the_sum() {
        let samples = Samples(vec![Duration::from_millis(1), Duration::from_millis(3)]);
        assert!((samples.per_second() - 500.0).abs() < 1e-9);
    }
}
