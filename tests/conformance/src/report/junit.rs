//! The report as `JUnit` has it: a suite for each section of the contract, a test for each case.

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::{CaseReport, Report, Word};
use crate::contract;
use crate::id;

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
    let promises = contract::promises();
    let section = |case: &CaseReport| {
        let first = case.promises.first();
        let found = promises.iter().find(|promise| Some(&promise.id) == first);
        found.map_or("Contract", |promise| promise.section)
    };
    let mut sections: Vec<&str> = Vec::new();
    for promise in &promises {
        if !sections.contains(&promise.section) {
            sections.push(promise.section);
        }
    }
    sections.push("Contract");
    for name in sections {
        let mut suite = TestSuite::new(name);
        suite.add_test_cases(
            report.cases.iter().filter(|case| section(case) == name).map(test_case),
        );
        if !suite.test_cases.is_empty() {
            document.add_test_suite(suite);
        }
    }
    document.to_string()
}

fn test_case(case: &CaseReport) -> TestCase {
    let mut status = match case.verdict {
        Word::Pass => TestCaseStatus::success(),
        Word::Skip | Word::Disabled => TestCaseStatus::skipped(),
        Word::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    if let Some(reason) = &case.reason {
        status.set_message(reason.clone());
    }
    if let (Word::Fail, Some(failure)) = (case.verdict, &case.failure) {
        status.set_type(failure.kind);
        status.set_message(failure.seen.clone());
        status.set_description(failure.told(case));
    }
    let mut test = TestCase::new(case.name.clone(), status);
    test.set_classname(id::told(&case.promises));
    test.set_time(Duration::try_from_secs_f64(case.seconds).unwrap_or_default());
    test
}
