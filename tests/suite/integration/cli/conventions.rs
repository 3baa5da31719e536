//! What newcomers and programs expect of any command line.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::cli::{answer, assert_answer, overlay_pool, run};
use crate::harness::prelude::*;

const VERSION: &str = concat!("overlay-pool ", env!("CARGO_PKG_VERSION"), "\n");

#[apply(test)]
fn version_is_the_package_s_and_tells_which_qemu_is_found(scratch: Scratch) {
    let short = answer(&scratch, ["-V"]);
    assert_eq!((short.code, short.stdout.as_str()), (Some(0), VERSION));
    let bin = scratch.join("bin");
    fs::create_dir(&bin).expect("a folder");
    fs::write(bin.join("qemu-img"), "#!/bin/sh\necho 'qemu-img version 9.9 (of tests)'\n")
        .expect("a program");
    fs::set_permissions(bin.join("qemu-img"), fs::Permissions::from_mode(0o755))
        .expect("its permissions");
    let long = run(overlay_pool(&scratch).arg("--version").env("PATH", &bin));
    assert_eq!(long.code, Some(0));
    let [first, .., image_tool, daemon, system] = long.stdout.lines().collect::<Vec<_>>()[..]
    else {
        panic!("too few lines: {long}");
    };
    assert_eq!(first, VERSION.trim_end());
    // Which commands there are depends on them.
    let features = long.stdout.lines().find(|line| line.starts_with("features ")).expect("a line");
    for (feature, is_on) in [("images", cfg!(feature = "images")), ("csi", cfg!(feature = "csi"))] {
        assert_eq!(features.contains(feature), is_on, "{features}");
    }
    assert_eq!(image_tool, "qemu-img             9.9 (of tests)");
    for (line, program) in [(daemon, "qemu-storage-daemon"), (system, "qemu-system-x86_64")] {
        assert!(line.starts_with(program) && line.contains("No such file"), "{long}");
    }
}

#[apply(test)]
#[case(&[])]
#[case(&["help"])]
fn alone_it_shows_its_help(scratch: Scratch, #[case] args: &[&str]) {
    let shown = answer(&scratch, args);
    let short = answer(&scratch, ["-h"]);
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{shown}");
    assert!(shown.stdout == short.stdout || shown.stdout == answer(&scratch, ["--help"]).stdout);
    let of_create = answer(&scratch, ["help", "create"]);
    assert_eq!(of_create.stdout, answer(&scratch, ["create", "--help"]).stdout);
}

/// Each is looked up by its name as a string of the code.
#[apply(test)]
fn help_names_every_variable_of_the_environment(scratch: Scratch) {
    fn names(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in folder.read_dir().expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                names(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
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

/// Whoever reads it on a narrow terminal sees no line that ends after a word.
#[apply(test)]
fn paragraphs_of_help_are_broken_where_the_terminal_ends(scratch: Scratch) {
    let lines = |columns: &str| {
        let help =
            run(overlay_pool(&scratch).args(["images", "build", "--help"]).env("COLUMNS", columns));
        help.stdout
            .split("\n\n")
            .find(|text| text.starts_with("Kernel, "))
            .map(str::to_owned)
            .expect("it")
    };
    let (wide, narrow) = (lines("100"), lines("60"));
    assert_eq!(
        wide.split_whitespace().collect::<Vec<_>>(),
        narrow.split_whitespace().collect::<Vec<_>>()
    );
    for (text, columns) in [(wide, 100), (narrow, 60)] {
        let lines: Vec<_> = text.lines().collect();
        for two in lines.windows(2) {
            let next = two[1].split(' ').next().expect("a word");
            assert!(two[0].len() <= columns && two[0].len() + 1 + next.len() > columns, "{text}");
        }
    }
}

/// Nothing like it is proposed that does something else.
#[apply(test)]
#[case(cfg!(feature = "csi"), "csi", &["csi"])]
#[case(cfg!(feature = "images"), "images", &["images", "pull", "ghcr.io/acme/python:3.13"])]
#[case(cfg!(feature = "images"), "images", &["serve", "--image=ghcr.io/acme/python:3.13", "--socket", "/none/here"])]
fn what_another_build_has_is_told_by_its_feature(
    scratch: Scratch,
    #[case] is_on: bool,
    #[case] feature: &str,
    #[case] arguments: &[&str],
) {
    if is_on {
        let help = answer(&scratch, [arguments[0], "--help"]);
        assert_eq!(help.code, Some(0), "{help}");
        return;
    }
    let lacking = answer(&scratch, arguments);
    let advice = format!("cargo install --features {feature}");
    assert!(lacking.code == Some(2) && lacking.stderr.contains(&advice), "{lacking}");
}

/// The same answer, as what a user of `qemu-img` types first.
#[apply(test)]
fn qemu_img_s_words_are_answered_with_ours(scratch: Scratch) {
    let theirs = ["create", "-f", "qcow2", "-F", "raw", "-b", "disk.img", "vm.qcow2", "1GiB"];
    let told = answer(&scratch, theirs);
    assert_eq!((told.code, told.stderr.lines().count()), (Some(2), 1), "{told}");
    assert_answer!(scratch, "usage_qemu_img", told);
    let command = told.stderr.trim_end().split_once("; say overlay-pool ").expect("a command").1;
    fs::write(scratch.join("disk.img"), [0; 512]).expect("a base image");
    let ours = answer(&scratch, command.split(' '));
    assert_eq!(ours.code, Some(0), "{ours}");
    assert!(scratch.join("vm.qcow2").is_file());
}

/// Whatever goes wrong, whoever asked for JSON gets an object on standard output.
#[apply(test)]
#[case(2, &["create", "--json", "--wrong"])]
#[case(2, &["gc", "--json", "--wrong"])]
#[case(3, &["create", "--json", "nowhere", "vm"])]
#[case(3, &["inspect", "--json", "nowhere"])]
#[case(3, &["images", "--json", "--dir", "nowhere"])]
#[case(6, &["acquire", "--json", "--socket", "no.sock", "base", "vm"])]
#[case(6, &["stats", "--json", "--socket", "no.sock"])]
#[case(125, &["exec", "--json", "python", "nowhere.py"])]
fn failures_are_json_too(scratch: Scratch, #[case] code: i32, #[case] args: &[&str]) {
    let failed = answer(&scratch, args);
    assert_eq!(failed.code, Some(code), "{failed}");
    let facts: Value = serde_json::from_str(&failed.stdout).expect("JSON");
    let failure = &facts["failures"][0];
    assert_eq!(failure["exit_code"], code, "{failed}");
    let message = failure["message"].as_str().expect("a message");
    assert_eq!(failed.stderr, format!("overlay-pool: {message}\n"));
}

#[apply(test)]
fn a_log_can_be_json(scratch: Scratch) {
    fs::write(scratch.join("base.img"), [0; 512]).expect("a base image");
    let args = ["create", "--raw", "base.img", "vm", "-v", "--log-format", "json"];
    let created = answer(&scratch, args);
    assert!(created.code == Some(0) && created.stderr.lines().count() > 1, "{created}");
    for line in created.stderr.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
}

/// No terminal, no colours, unless they are forced; and with `NO_COLOR` not even then.
#[apply(test)]
#[case(&[], false)]
#[case(&[("CLICOLOR_FORCE", "1")], true)]
#[case(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false)]
fn colours_go_by_the_usual_rules(
    scratch: Scratch,
    #[case] variables: &[(&str, &str)],
    #[case] coloured: bool,
) {
    let help = run(overlay_pool(&scratch).arg("--help").envs(variables.iter().copied()));
    assert_eq!(help.stdout.contains("\u{1b}["), coloured, "{help}");
    fs::write(scratch.join("base.img"), [0; 512]).expect("a base image");
    let mut create = overlay_pool(&scratch);
    create.args(["create", "-v", "--raw", "base.img", "vm"]).envs(variables.iter().copied());
    let log = run(&mut create).stderr;
    assert_eq!(log.contains("\u{1b}["), coloured, "{log}");
}

#[apply(test)]
fn manual_pages_are_written_for_each_subcommand(scratch: Scratch) {
    let written = answer(&scratch, ["man", "pages"]);
    assert_eq!(written.code, Some(0), "{written}");
    for page in ["overlay-pool", "overlay-pool-create", "overlay-pool-serve"] {
        let text = fs::read_to_string(scratch.join(format!("pages/{page}.1")));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{text}");
    }
    let failed = answer(&scratch, ["man", "/dev/null/pages"]);
    assert!(failed.code == Some(1) && failed.stderr.contains("/dev/null/pages"), "{failed}");
}
