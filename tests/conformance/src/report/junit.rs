//! The report as `JUnit` has it: a suite for each section of the contract, and a test for each case
//! of each promise.

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::{CaseReport, PromiseReport, Report, Word};

/// An XML document.
///
/// # Errors
///
/// What the writer says.
pub(crate) fn junit(report: &Report) -> Result<String, quick_junit::SerializeError> {
    let mut document = quick_junit::Report::new(format!(
        "{}, by contract {} of overlay-pool",
        report.port_name(),
        report.contract
    ));
    for promises in report.promises.chunk_by(|one, next| one.section == next.section) {
        let mut suite = TestSuite::new(promises[0].section);
        for promise in promises {
            let cases = report.cases.iter().filter(|case| promise.cases.contains(&case.name));
            suite.add_test_cases(cases.map(|case| test_case(promise, case)));
        }
        document.add_test_suite(suite);
    }
    document.to_string()
}

fn test_case(promise: &PromiseReport, case: &CaseReport) -> TestCase {
    let (verdict, reason) = case.verdict_on(promise.id);
    let mut status = match verdict {
        Word::Pass => TestCaseStatus::success(),
        Word::Skip | Word::Disabled => TestCaseStatus::skipped(),
        Word::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    match (verdict, &case.failure) {
        (Word::Fail, Some(failure)) => {
            status.set_type(failure.kind);
            status.set_message(failure.seen.clone());
            status.set_description(failure.told(case));
        }
        _ => {
            if let Some(reason) = reason {
                status.set_message(reason);
            }
        }
    }
    let mut test = TestCase::new(format!("{} {}", promise.id, case.name), status);
    test.set_classname(promise.id.rule().to_string());
    // A case that proves several promises runs once.
    let took = Duration::try_from_secs_f64(case.seconds).unwrap_or_default();
    test.set_time(took / u32::try_from(case.promises.len()).unwrap_or(1).max(1));
    test
}
