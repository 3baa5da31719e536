//! What all subcommands share: help, usage errors, streams, completions.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;

const NEEDS: &[Need] = &[];

#[rstest]
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
#[test_attr(apply(case))]
fn help_has_examples(scratch: Scratch, #[case] command: &str) {
    let help = answer(&scratch, [command, "--help"]);
    assert!(help.stdout.contains("\nExamples:\n"), "{help}");
    assert_answer!(scratch, format!("help_{command}"), help);
}

#[rstest]
#[test_attr(apply(case))]
fn help_lists_exit_codes(scratch: Scratch) {
    assert_answer!(scratch, "help", answer(&scratch, ["--help"]));
}

const VERSION: &str = concat!("overlay-pool ", env!("CARGO_PKG_VERSION"), "\n");

#[rstest]
#[test_attr(apply(case))]
fn version_is_the_package_s_and_tells_which_qemu_is_found(scratch: Scratch) {
    let short = answer(&scratch, ["-V"]);
    assert_eq!((short.code, short.stdout.as_str()), (Some(0), VERSION));
    let bin = scratch.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(bin.join("qemu-img"), "#!/bin/sh\necho qemu-img version 9.9 (of tests)\n")
        .expect("a program");
    std::fs::set_permissions(bin.join("qemu-img"), std::fs::Permissions::from_mode(0o755))
        .expect("its permissions");
    let long = run(overlay_pool(&scratch).arg("--version").env("PATH", &bin));
    assert_eq!(long.code, Some(0));
    let [first, .., image_tool, daemon, system] = long.stdout.lines().collect::<Vec<_>>()[..]
    else {
        panic!("too few lines: {long}");
    };
    assert_eq!(first, VERSION.trim_end());
    assert_eq!(image_tool, "qemu-img             9.9 (of tests)");
    for (line, program) in [(daemon, "qemu-storage-daemon"), (system, "qemu-system-x86_64")] {
        assert!(line.starts_with(program) && line.contains("No such file"), "{long}");
    }
}

#[rstest]
#[case(&[])]
#[case(&["help"])]
#[test_attr(apply(case))]
fn alone_it_shows_its_help(scratch: Scratch, #[case] args: &[&str]) {
    let shown = answer(&scratch, args);
    let short = answer(&scratch, ["-h"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{shown}");
    assert!(shown.stdout == short.stdout || shown.stdout == answer(&scratch, ["--help"]).stdout);
    let of_create = answer(&scratch, ["help", "create"]);
    assert_eq!(of_create.stdout, answer(&scratch, ["create", "--help"]).stdout);
}

/// Each is looked up by its name as a string of the code.
#[rstest]
#[test_attr(apply(case))]
fn help_names_every_variable_of_the_environment(scratch: Scratch) {
    fn names(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in folder.read_dir().expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                names(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            for quoted in text.split('"').filter(|text| text.starts_with("OVERLAY_POOL_")) {
                let is_name = |char: char| char.is_ascii_uppercase() || char == '_';
                if quoted.chars().all(is_name) && quoted != "OVERLAY_POOL_COMMIT" {
                    found.insert(quoted.to_owned());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    names(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() >= 12, "{found:?}");
    let help = answer(&scratch, ["--help"]).stdout;
    for name in found {
        assert!(help.contains(&format!("  {name} ")), "{name}");
    }
}

/// The same answer, as what a user of `qemu-img` types first.
#[rstest]
#[test_attr(apply(case))]
fn qemu_img_s_words_are_answered_with_ours(scratch: Scratch) {
    let theirs = ["create", "-f", "qcow2", "-F", "raw", "-b", "disk.img", "vm.qcow2", "1GiB"];
    let told = answer(&scratch, theirs);
    assert_eq!((told.code, told.stderr.lines().count()), (Some(2), 1), "{told}");
    assert_answer!(scratch, "usage_qemu_img", told);
    let command = told.stderr.trim_end().split_once("; say overlay-pool ").expect("a command").1;
    std::fs::write(scratch.join("disk.img"), [0; 512]).expect("a base image");
    let ours = answer(&scratch, command.split(' '));
    assert_eq!(ours.code, Some(0), "{ours}");
    assert!(scratch.join("vm.qcow2").is_file());
}

/// Whatever goes wrong, whoever asked for JSON gets an object on standard output.
#[rstest]
#[case(2, &["create", "--json", "--wrong"])]
#[case(2, &["gc", "--json", "--wrong"])]
#[case(3, &["create", "--json", "nowhere", "vm"])]
#[case(3, &["inspect", "--json", "nowhere"])]
#[case(3, &["images", "--json", "--dir", "nowhere"])]
#[case(6, &["acquire", "--json", "--socket", "no.sock", "base", "vm"])]
#[case(6, &["stats", "--json", "--socket", "no.sock"])]
#[case(125, &["exec", "--json", "python", "nowhere.py"])]
#[test_attr(apply(case))]
fn failures_are_json_too(scratch: Scratch, #[case] code: i32, #[case] args: &[&str]) {
    let failed = answer(&scratch, args);
    assert_eq!(failed.code, Some(code), "{failed}");
    let facts: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    let failure = &facts["failures"][0];
    assert_eq!(failure["exit_code"], code, "{failed}");
    let message = failure["message"].as_str().expect("a message");
    assert_eq!(failed.stderr, format!("overlay-pool: {message}\n"));
}

#[rstest]
#[test_attr(apply(case))]
fn a_log_can_be_json(scratch: Scratch) {
    std::fs::write(scratch.join("base.img"), [0; 512]).expect("a base image");
    let args = ["create", "--raw", "base.img", "vm", "-v", "--log-format", "json"];
    let created = answer(&scratch, args);
    assert!(created.code == Some(0) && created.stderr.lines().count() > 1, "{created}");
    for line in created.stderr.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        assert_eq!(line["level"], "DEBUG", "{line}");
    }
}

/// No terminal, no colours, unless they are forced; and with `NO_COLOR` not even then.
#[rstest]
#[case(&[], false)]
#[case(&[("CLICOLOR_FORCE", "1")], true)]
#[case(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false)]
#[test_attr(apply(case))]
fn colours_go_by_the_usual_rules(
    scratch: Scratch,
    #[case] variables: &[(&str, &str)],
    #[case] coloured: bool,
) {
    let help = run(overlay_pool(&scratch).arg("--help").envs(variables.iter().copied()));
    assert_eq!(help.stdout.contains("\u{1b}["), coloured, "{help}");
    std::fs::write(scratch.join("base.img"), [0; 512]).expect("a base image");
    let mut create = overlay_pool(&scratch);
    create.args(["create", "-v", "--raw", "base.img", "vm"]).envs(variables.iter().copied());
    let log = run(&mut create).stderr;
    assert_eq!(log.contains("\u{1b}["), coloured, "{log}");
}

#[rstest]
#[test_attr(apply(case))]
fn manual_pages_are_written_for_each_subcommand(scratch: Scratch) {
    let written = answer(&scratch, ["man", "pages"]);
    assert_eq!(written.code, Some(0), "{written}");
    for page in ["overlay-pool", "overlay-pool-create", "overlay-pool-serve"] {
        let text = std::fs::read_to_string(scratch.join(format!("pages/{page}.1")));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{text}");
    }
    let failed = answer(&scratch, ["man", "/dev/null/pages"]);
    assert!(failed.code == Some(1) && failed.stderr.contains("/dev/null/pages"), "{failed}");
}

#[rstest]
#[case::unknown_command("unknown_command", &["crate"])]
#[case::no_target("no_target", &["create", "base.qcow2"])]
#[case::unknown_option("unknown_option", &["gc", "--dry"])]
#[case::unknown_creator("unknown_creator", &["create", "--creator", "qemu", "base", "target"])]
#[case::bad_size("bad_size", &["create", "--size", "1.5", "base", "target"])]
#[case::bad_interval("bad_interval", &["stats", "--watch", "0"])]
#[case::size_overflow("size_overflow", &["create", "--size", "16E", "base", "target"])]
#[case::escape_sequence("escape_sequence", &["gc", "--\u{1b}[2J\u{9b}2J\n"])]
#[test_attr(apply(case))]
fn usage_error_is_one_line(scratch: Scratch, #[case] name: &str, #[case] args: &[&str]) {
    let error = answer(&scratch, args);
    assert_eq!((error.code, error.stderr.lines().count()), (Some(2), 1), "{error}");
    assert_answer!(scratch, format!("usage_{name}"), error);
}

/// As in `overlay-pool … | head -0`.
#[rstest]
#[case(&["--help"])]
#[case(&["gc"])]
#[case(&["completions", "bash"])]
#[test_attr(apply(case))]
fn closed_pipe_is_no_failure(scratch: Scratch, #[case] args: &[&str]) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = overlay_pool(&scratch).args(args).stdout(writer).spawn();
    let output = output.expect("the program runs").wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
}

#[rstest]
#[test_attr(apply(case))]
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
#[rstest]
#[test_attr(apply(case))]
fn closed_errors_leave_the_exit_code(scratch: Scratch) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = overlay_pool(&scratch).arg("nothing").stderr(writer).status();
    assert_eq!(status.expect("the program runs").code(), Some(2));
}

#[rstest]
#[test_attr(apply(case))]
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

#[rstest]
#[case("bash")]
#[case("elvish")]
#[case("fish")]
#[case("powershell")]
#[case("zsh")]
#[test_attr(apply(case))]
fn completions_know_the_subcommands(scratch: Scratch, #[case] shell: &str) {
    let script = answer(&scratch, ["completions", shell]);
    assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""));
    for command in ["acquire", "stats", "create", "inspect", "doctor", "gc", "completions"] {
        assert!(script.stdout.contains(command), "{command}");
    }
}

mod bash {
    use std::process::Command;

    use crate::harness::cli::answer;
    use crate::harness::prelude::*;

    const NEEDS: &[Need] = &[Need::Bash];

    #[rstest]
    #[test_attr(apply(case))]
    fn completes_with_the_script(scratch: Scratch) {
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
}
