//! What this machine has.

use crate::harness::prelude::*;
use crate::harness::requirements;

const NEEDS: &[Need] = &[];

/// Prints what is there and what is missing and why; nextest shows it in every run.
#[rstest]
#[test_attr(apply(case))]
fn table() {
    let required = requirements::required().expect("known names");
    for need in Need::ALL {
        let demanded = if required.contains(&need) { " (required)" } else { "" };
        match need.probe() {
            Ok(found) => println!("{:20} there: {found}{demanded}", need.name()),
            Err(reason) => println!("{:20} MISSING: {reason}{demanded}", need.name()),
        }
    }
}
