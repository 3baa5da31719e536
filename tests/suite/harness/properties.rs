//! Property tests that find the same thing again.

use proptest::test_runner::{Config, RngSeed};

const SEED: &str = "OVERLAY_POOL_SEED";

/// `cases` cases from a fixed seed, or from that in `OVERLAY_POOL_SEED`, so that a run in CI
/// never fails by chance; scale with `PROPTEST_CASES`, which wins over `cases`.
pub(crate) fn properties(cases: u32) -> Config {
    Config {
        cases: number("PROPTEST_CASES")
            .map_or(cases, |cases: u64| cases.try_into().unwrap_or(u32::MAX)),
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: None,
        ..Config::default()
    }
}

/// The seed of everything random: that in `OVERLAY_POOL_SEED`, or always the same.
pub(crate) fn seed() -> u64 {
    number(SEED).unwrap_or(1)
}

/// The number in an environment variable.
pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
