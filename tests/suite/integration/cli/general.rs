//! What all subcommands share: help, usage errors, streams, completions.

use std::fs::File;
use std::process::Command;

use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;

#[apply(test)]
#[case("acquire")]
#[case("stats")]
#[case("create")]
#[case("inspect")]
#[case("bench")]
#[case("doctor")]
#[case("gc")]
#[case("man")]
#[case("completions")]
#[case("serve")]
fn help_has_examples(scratch: Scratch, #[case] command: &str) {
    let help = answer(&scratch, [command, "--help"]);
    assert!(help.stdout.contains("\nExamples:\n"), "{help}");
    // With the feature it has more options.
    let more = if command == "serve" && cfg!(feature = "images") { "_images" } else { "" };
    assert_answer!(scratch, format!("help_{command}{more}"), help);
}

#[apply(test)]
fn help_lists_exit_codes(scratch: Scratch) {
    // With the feature it has one command more, and nothing else is another.
    const CSI: &str =
        "  csi          Give Pods of Kubernetes disks from a server's pool, as a CSI driver\n";
    let mut help = answer(&scratch, ["--help"]);
    assert_eq!(help.stdout.matches(CSI).count(), usize::from(cfg!(feature = "csi")), "{help}");
    help.stdout = help.stdout.replace(CSI, "");
    assert_answer!(scratch, "help", help);
}

#[apply(test)]
#[case::unknown_command("unknown_command", &["crate"])]
#[case::no_target("no_target", &["create", "base.qcow2"])]
#[case::unknown_option("unknown_option", &["gc", "--dry"])]
#[case::unknown_creator("unknown_creator", &["create", "--creator", "qemu", "base", "target"])]
#[case::bad_size("bad_size", &["create", "--size", "1.5", "base", "target"])]
#[case::bad_interval("bad_interval", &["stats", "--watch", "0"])]
#[case::size_overflow("size_overflow", &["create", "--size", "16E", "base", "target"])]
#[case::escape_sequence("escape_sequence", &["gc", "--\u{1b}[2J\u{9b}2J\n"])]
fn usage_error_is_one_line(scratch: Scratch, #[case] name: &str, #[case] args: &[&str]) {
    let error = answer(&scratch, args);
    assert_eq!((error.code, error.stderr.lines().count()), (Some(2), 1), "{error}");
    assert_answer!(scratch, format!("usage_{name}"), error);
}

/// As in `overlay-pool … | head -0`.
#[apply(test)]
#[case(&["--help"])]
#[case(&["gc"])]
#[case(&["doctor"])]
#[case(&["doctor", "--json"])]
#[case(&["completions", "bash"])]
fn closed_pipe_is_no_failure(scratch: Scratch, #[case] args: &[&str]) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = overlay_pool(&scratch).args(args).stdout(writer).spawn();
    let output = output.expect("the program runs").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
}

#[apply(test)]
fn full_output_is_a_failure(scratch: Scratch) {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let command = &mut overlay_pool(&scratch);
    let output = command.arg("gc").stdout(full).stderr(std::process::Stdio::piped()).spawn();
    let output = output.expect("the program runs").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_answer!(scratch, "full_output", stderr);
}

/// A program started with neither output nor errors open has nobody to panic to.
#[apply(test)]
fn closed_errors_leave_the_exit_code(scratch: Scratch) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = overlay_pool(&scratch).arg("nothing").stderr(writer).status();
    assert_eq!(status.expect("the program runs").code(), Some(2));
}

#[apply(test)]
fn log_is_silent_unless_asked_for(scratch: Scratch) {
    std::fs::write(scratch.join("base.img"), [0; 512]).expect("a base image");
    let create = |target: &'static str| {
        let mut command = overlay_pool(&scratch);
        command.args(["create", "--raw", "base.img", target]);
        command
    };
    assert_eq!(run(&mut create("silent")).stderr, "");
    let verbose = run(create("verbose").arg("-v"));
    assert!(verbose.stderr.contains("overlay_pool::pool: start creator=\"native\""), "{verbose}");
    let filtered = run(create("filtered").env("OVERLAY_POOL_LOG", "overlay_pool=info"));
    assert!(filtered.stderr.contains("INFO") && !filtered.stderr.contains("DEBUG"), "{filtered}");
    let bad = run(create("bad").env("OVERLAY_POOL_LOG", "overlay_pool=loud"));
    assert_eq!((bad.code, scratch.join("bad").exists()), (Some(2), false));
    assert_answer!(scratch, "bad_log_filter", bad);
}

#[apply(test)]
#[case("bash")]
#[case("elvish")]
#[case("fish")]
#[case("powershell")]
#[case("zsh")]
fn completions_know_the_subcommands(scratch: Scratch, #[case] shell: &str) {
    let script = answer(&scratch, ["completions", shell]);
    assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""));
    for command in ["acquire", "stats", "create", "inspect", "doctor", "gc", "completions"] {
        assert!(script.stdout.contains(command), "{command}");
    }
}

#[apply(test)]
#[needs(Bash)]
fn bash_completes_with_the_script(scratch: Scratch) {
    let script = scratch.join("completions.bash");
    std::fs::write(&script, answer(&scratch, ["completions", "bash"]).stdout).expect("written");
    // As bash does when Tab is pressed: the function it is told, with command, word and the word
    // before.
    let complete = r#"source "$0"
        function=$(complete -p overlay-pool | sed 's/.* -F \([^ ]*\).*/\1/')
        COMP_WORDS=(overlay-pool create --creator stor)
        COMP_CWORD=3
        "$function" overlay-pool stor --creator
        echo "${COMPREPLY[@]}""#;
    let output = Command::new("bash").args(["-c", complete]).arg(&script).output();
    let output = output.expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "storage-daemon\n");
}
