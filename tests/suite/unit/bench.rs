//! What figures are made of.

use std::time::Duration;

use crate::bench::figures::{Columns, Figures, Row, judge, percentile, table};
use crate::bench::server::client::parse;
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

#[rstest]
#[case(1, 50, Some(1.0))]
#[case(1, 99, Some(1.0))]
#[case(2, 50, Some(1.0))]
#[case(3, 50, Some(2.0))]
#[case(100, 50, Some(50.0))]
#[case(100, 99, Some(99.0))]
#[case(1000, 99, Some(990.0))]
#[case(0, 50, None)]
#[test_attr(apply(case))]
fn percentile_is_the_nearest_rank(
    #[case] samples: u64,
    #[case] percent: usize,
    #[case] micros: Option<f64>,
) {
    let samples = (1..=samples).rev().map(Duration::from_micros).collect();
    let found = percentile(samples, percent);
    assert_eq!(found.map(f64::round), micros);
}

const ROWS: [Row; 3] = [
    ("most", "at most three", Some(("one", '≤', 3.0))),
    ("least", "at least three", Some(("one", '≥', 3.0))),
    ("none", "measured nowhere", Some(("one", '≤', 3.0))),
];

fn columns(figure: f64) -> Columns {
    let [mut one, mut other] = <[Figures; 2]>::default();
    one.set("most", figure);
    one.set("least", figure);
    other.set("most", 100.0);
    Columns::from([("one", one), ("other", other)])
}

#[rstest]
#[case(2.9, None, ["met", "missed"])]
#[case(3.0, None, ["met", "met"])]
#[case(3.1, None, ["missed", "met"])]
#[case(3.1, Some("tmpfs"), ["not judged: tmpfs", "not judged: tmpfs"])]
#[test_attr(apply(case))]
fn a_promise_is_judged_on_its_column_or_not_at_all(
    #[case] figure: f64,
    #[case] unless: Option<&str>,
    #[case] expected: [&str; 2],
) {
    let targets = judge(&ROWS, &columns(figure), unless);
    let verdicts: Vec<_> = targets.iter().map(|target| target.verdict.as_str()).collect();
    assert_eq!(verdicts, expected);
}

#[rstest]
#[test_attr(apply(case))]
fn a_row_without_figures_is_left_out() {
    let columns = columns(2.5);
    let table = table(&ROWS, &columns, &judge(&ROWS, &columns, None));
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["one", "other"]);
    assert_eq!(lines[1], ["at", "most", "three", "2.5", "100", "one", "≤", "3:", "met"]);
    assert_eq!(lines[2], ["at", "least", "three", "2.5", "one", "≥", "3:", "missed"]);
    assert_eq!(lines.len(), 3);
}

#[rstest]
#[case("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((true, "{}")))]
#[case("HTTP/1.1 204 No Content\r\n\r\n", Some((true, "")))]
#[case("HTTP/1.1 409 Conflict\r\ncontent-length: 1\r\n\r\n!", Some((false, "!")))]
#[case("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", None)]
#[case("HTTP/1.1 200 OK\r\ncontent-le", None)]
#[test_attr(apply(case))]
fn an_answer_is_whole_or_has_more_to_come(
    #[case] bytes: &str,
    #[case] expected: Option<(bool, &str)>,
) {
    let answer = parse(bytes.as_bytes()).expect("HTTP/1.1");
    assert_eq!(answer, expected.map(|(good, body)| (good, body.as_bytes())));
}

#[rstest]
#[test_attr(apply(case))]
fn what_is_no_answer_is_an_error() {
    parse(b"SSH-2.0-OpenSSH\r\n\r\n").expect_err("not HTTP");
}
