//! One test binary; the tiers are its modules.
//!
//! It has a harness of its own (see `harness/case.rs`), so that a test whose need this machine
//! doesn't meet is listed as ignored, and shows as SKIP instead of as passed.

#[path = "../bench/mod.rs"]
mod bench;
mod conformance;
mod error_injection;
mod harness;
mod integration;
mod unit;

use overlay_pool_conformance::isolation;

fn main() -> std::process::ExitCode {
    let roles = [
        isolation::main_if_case,
        harness::judge::main_if_judge,
        harness::owner::main_if_owner,
        harness::bench::main_if_bench,
    ];
    roles.into_iter().find_map(|role| role()).unwrap_or_else(|| match trials() {
        Ok(trials) => harness::case::main(trials),
        Err(mistake) => {
            eprintln!("{mistake}");
            std::process::ExitCode::FAILURE
        }
    })
}

/// All tests, or those of the port that is to be judged.
fn trials() -> Result<Vec<harness::case::Trial>, String> {
    if let Some(trials) = conformance::of_named_port()? {
        return Ok(trials);
    }
    let only = harness::case::only();
    // The cases needn't be read for a test that is none of them.
    if only.as_deref().is_some_and(harness::case::is_registered) {
        return Ok(harness::case::registered().collect());
    }
    Ok(harness::case::registered().chain(conformance::trials(only.as_deref())?).collect())
}
