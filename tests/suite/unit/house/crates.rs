//! What a program that only wants the pool has to compile.

use super::CRATES;
use crate::harness::prelude::*;
use crate::harness::requirements::crates;

const NEEDS: &[Need] = &[Need::Crates];

#[rstest]
#[test_attr(apply(case))]
fn the_library_is_lean() {
    let crates = crates().expect("cargo knows them");
    let has = |name: &str| crates.iter().any(|line| line.starts_with(&format!("{name} v")));
    assert!(has("overlay-pool") && has("tokio"), "{crates:#?}");
    assert!(crates.len() <= CRATES, "{} crates: {crates:#?}", crates.len());
    for server in ["hyper", "axum", "utoipa", "clap", "prometheus-client"] {
        assert!(!has(server), "{server} is for others");
    }
}
