//! What a shim must not do is told, and most of it at once.

use std::time::Duration;

use crate::harness::prelude::*;
use crate::harness::processes::runs;
use crate::harness::shim::{Checked, Shim, until};

const NEEDS: &[Need] = &[];

/// More than any of these shims needs.
const PATIENCE: Duration = Duration::from_secs(20);
const HELLO: &str = r#"read -r line; echo '{"id": 1, "ok": {"protocol": 1, "name": "a shell"}}'; "#;
const STATS: &str = r#"read -r line; echo '{"id": 2, "ok": {}, "error": null}'; "#;
const EXIT: &str = r#"read -r line; echo '{"id": 3, "ok": null}'; "#;

/// Starts a shim that is a script of the shell, asks it for its figures and has it exit.
fn judge(folder: &Scratch, script: &str, patience: Duration) -> Checked {
    let argv = ["sh", "-c", &format!("{HELLO}{script}")].map(str::to_owned);
    let mut shim = Shim::start(&argv, folder, "shim", patience)?;
    let _ = shim.ask("stats", serde_json::Map::new())?;
    shim.exit()
}

#[rstest]
#[test_attr(apply(case))]
fn a_sound_shim_is_judged_and_its_transcript_kept(scratch: Scratch) {
    judge(&scratch, &format!("{STATS}{EXIT}"), PATIENCE).expect("it is sound");
    let transcript = std::fs::read_to_string(scratch.join("shim.transcript")).expect("a file");
    let lines: Vec<_> = transcript.lines().map(|line| line.split_at(9).1).collect();
    assert_eq!(lines[1], r#"> {"do":"hello","id":1}"#, "{transcript}");
    assert_eq!(lines[4], r#"< {"id": 2, "ok": {}, "error": null}"#, "{transcript}");
}

#[rstest]
#[case::no_json("read -r line; echo hello; cat", "not JSON: hello")]
#[case::no_text(r"read -r line; printf '\377\n'; cat", "not JSON")]
#[case::no_id(r#"read -r line; echo '{"ok": {}}'; cat"#, "without the id")]
#[case::of_another(r#"read -r line; echo '{"id": 7, "ok": {}}'; cat"#, "no request 7 waits")]
#[case::twice(r#"echo '{"id": 1, "ok": {}}'; cat"#, "no request 1 waits")]
#[case::neither(r#"read -r line; echo '{"id": 2}'; cat"#, "without `ok` or `error`")]
#[case::both(
    r#"read -r line; echo '{"id": 2, "ok": {}, "error": {"name": "a", "message": "b"}}'; cat"#,
    "with both `ok` and `error`"
)]
#[case::error_as_text(r#"read -r line; echo '{"id": 2, "error": "bad-base"}'; cat"#, "`message`")]
#[case::ended(
    "echo a cause >&2; exit 3",
    "status: 3); the shim's standard error ends with:\na cause"
)]
#[test_attr(apply(case))]
fn a_bad_answer_is_told_at_once(scratch: Scratch, #[case] script: &str, #[case] told: &str) {
    let failure = judge(&scratch, script, PATIENCE).expect_err("no answer").to_string();
    assert!(failure.contains(told) && failure.starts_with("can't be judged: "), "{failure}");
}

#[rstest]
#[case::status("exit 5", "the shim ended after exit (exit status: 5)")]
#[case::another_answer(r#"echo '{"id": 3, "ok": {}}'"#, "no request 3 waits")]
#[case::no_end("exec sleep 600", "the shim doesn't end after exit")]
#[case::process("exec >&- 2>&-; sleep 600 &", "processes are left after exit: ")]
#[test_attr(apply(case))]
fn a_bad_end_is_told(scratch: Scratch, #[case] script: &str, #[case] told: &str) {
    // Some of it is waited for in vain.
    let patience = Duration::from_secs(3);
    let failure = judge(&scratch, &format!("{STATS}{EXIT}{script}"), patience);
    let failure = failure.expect_err("no end").to_string();
    assert!(failure.contains(told), "{failure}");
}

/// A process of a shim is known as one though it cleared its environment.
#[rstest]
#[test_attr(apply(case))]
fn a_process_without_its_mark_is_found(scratch: Scratch) {
    let script = format!("{HELLO}env -i sleep 600 & {STATS}kill $!; wait; {EXIT}");
    let argv = ["sh", "-c", &script].map(str::to_owned);
    let mut shim = Shim::start(&argv, &scratch, "shim", PATIENCE).expect("it starts");
    // Before it is another program it has the mark.
    let is_found = || shim.started().into_iter().any(|pid| runs(pid, "sleep"));
    assert!(until(PATIENCE, is_found), "it is not found");
    let _ = shim.ask("stats", serde_json::Map::new()).expect("an answer");
    shim.exit().expect("it ended what it started");
}
