//! The program that judges ports: how it ends, what it says and what it writes.

mod lacks;
mod page;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::ports::repository;
use crate::harness::judge::judge;
use crate::harness::prelude::*;

/// Cases that a shim without a pool can be judged by.
const HALF: &str = r#"
about = "A shelf holds half."
promises = ["S1.1"]
steps = [{ do = "new", max_concurrent_vms = 4, pool_size = 2 }]
"#;
const ALL: &str = r#"
about = "A shelf holds all."
promises = ["S1.1", "S2.1"]
steps = [
  { do = "new", max_concurrent_vms = 0, pool_size = 0 },
  { do = "new", max_concurrent_vms = 4, pool_size = 4 },
]
"#;
const COUNTED: &str = r#"
about = "What failed is counted."
promises = ["A7.1", "T2.3"]
steps = [{ do = "stats", ready = {}, failed = 0 }]
"#;
const COUNTERS: &str = r#"
about = "There are counters."
promises = ["T2.3"]
steps = [{ do = "stats", ready = {}, failed = 0 }]
"#;
const LARGER: &str = r#"
about = "An overlay may be larger."
promises = ["A9.2"]
steps = [{ do = "acquire", target = "vm.qcow2", virtual_size_mib = 32, error = ["bad-base"] }]
"#;

/// A folder with these cases.
fn cases(scratch: &Path, cases: &[(&str, &str)]) -> PathBuf {
    let folder = scratch.join("cases");
    std::fs::create_dir_all(&folder).expect("a folder");
    for (name, text) in cases {
        std::fs::write(folder.join(format!("{name}.toml")), text).expect("a case");
    }
    folder
}

/// Judges the shim that is like this, by the cases of a folder.
fn run(scratch: &Path, like: &str, cases: &Path) -> Command {
    let shim = repository().join("tests/suite/conformance/program/shim.sh");
    std::fs::copy(shim, scratch.join("shim.sh")).expect("a shim");
    let mut command = judge();
    command.args(["run", "--shim", &format!("sh ./shim.sh {like}")]).arg("--cases").arg(cases);
    // What is waited for in vain is left behind; far more than the others need.
    command.args(["--patience", "10"]).current_dir(scratch).env("TMPDIR", scratch);
    command
}

/// How it ended, and all that it said.
fn told(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("it runs");
    let text = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("text"));
    (status.code(), text.concat())
}

#[track_caller]
fn expect(command: Command, code: i32, words: &[&str]) {
    let (status, said) = told(command);
    assert_eq!(status, Some(code), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} isn't said: {said}");
    }
}

#[apply(test)]
fn a_port_that_passes(scratch: Scratch) {
    let cases = cases(&scratch, &[("half", HALF), ("counters", COUNTERS)]);
    expect(run(&scratch, "", &cases), 0, &["a shell 3.1: 2 cases: 2 passed"]);
    let left = std::fs::read_dir(&*scratch).expect("a folder").flatten();
    let names: Vec<_> = left.map(|entry| entry.file_name().into_string()).collect();
    assert_eq!(names.len(), 2, "more than the cases and the shim is left: {names:?}");
}

#[apply(test)]
fn a_port_that_fails(scratch: Scratch) {
    let cases = cases(&scratch, &[("half", HALF), ("all", ALL)]);
    let words = [
        "FAIL all [S1.1, S2.1]",
        "expected A shelf holds all.",
        "step     2, { do = \"new\", max_concurrent_vms = 4, pool_size = 4 }",
        "seen     broken: S1.1: the size is 2, not 4",
        "2 cases: 1 passed, 1 failed",
    ];
    let (status, said) = told(run(&scratch, "", &cases));
    assert_eq!(status, Some(1), "{said}");
    for words in words {
        assert!(said.contains(words), "{words:?} isn't said: {said}");
    }
    let folder = said.lines().find_map(|line| line.trim().strip_prefix("folder   "));
    let transcript = Path::new(folder.expect("its folder is named")).join("shim.transcript");
    assert!(transcript.is_file(), "{} isn't there", transcript.display());
}

/// `| head` doesn't wait for its end.
#[apply(test)]
fn a_port_is_judged_though_nobody_reads_it(scratch: Scratch) {
    let cases = cases(&scratch, &[("half", HALF), ("all", ALL)]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = run(&scratch, "", &cases);
    command.args(["--json", "report.json"]).stdout(writer.try_clone().expect("its end"));
    assert_eq!(command.stderr(writer).status().expect("it runs").code(), Some(1));
    let report = std::fs::read_to_string(scratch.join("report.json")).expect("a report");
    assert!(report.contains("\"fail\""), "{report}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = judge().args(["run", "--list"]).stdout(writer).status().expect("it runs");
    assert!(status.success(), "{status}");
}

/// What is wrong has its name, and a name that fills a screen is shortened.
#[apply(test)]
#[needs(QemuImg)]
fn an_overlay_that_is_not_sound(scratch: Scratch) {
    let long = "x".repeat(200);
    let sound = "about = 'Sound.'\npromises = ['A9.3']\nimages.'base.qcow2' = {}\nsteps = [\n\
                 { do = 'acquire', target = 'vm.qcow2' },\n\
                 { do = 'sound', overlay = 'vm.qcow2' },\n]\n";
    let absent = format!(
        "about = 'Absent.'\npromises = ['L2.1']\nsteps = [\n\
         {{ do = 'write', path = '{long}', text = '' }},\n\
         {{ do = \"absent\", path = \"{long}\" }},\n]\n"
    );
    let cases = cases(&scratch, &[("sound", sound), ("absent", &absent)]);
    let (status, said) = told(run(&scratch, "", &cases));
    assert_eq!(status, Some(1), "{said}");
    let wrong = "its cluster-size is 65536, not 131072, its extended-l2 is false, not true, its \
                 lazy-refcounts is false, not true";
    assert!(said.contains(&format!("A9.3: by qemu-img info its {}", &wrong[4..])), "{said}");
    let step = said.lines().find(|line| line.contains("do = \"absent\"")).expect("the step");
    assert!(step.contains("xxx…xxx") && step.len() < 120, "{said}");
}

/// By the format that it records, and by its size, where the case is about another base image.
#[apply(test)]
#[needs(QemuImg)]
#[case::format("A8.3", "format = 'raw'", "A8.4: by qemu-img info its backing-filename-format")]
#[case::size("A10.1", "virtual_size_mib = 32", "A10.1: by qemu-img info its virtual-size")]
fn what_is_wrong_names_the_promise_that_it_breaks(
    scratch: Scratch,
    #[case] promise: &str,
    #[case] wanted: &str,
    #[case] words: &str,
) {
    let sound = format!(
        "about = 'Sound.'\npromises = ['{promise}']\nimages.'base.qcow2' = {{}}\nsteps = [\n\
         {{ do = 'acquire', target = 'vm.qcow2' }},\n\
         {{ do = 'sound', overlay = 'vm.qcow2', {wanted} }},\n]\n"
    );
    let cases = cases(&scratch, &[("sound", &sound)]);
    expect(run(&scratch, "", &cases), 1, &[words]);
}

/// A case of a part that is left out by declaration is skipped, and isn't one that is passed.
#[apply(test)]
fn what_a_port_leaves_out_is_skipped(scratch: Scratch) {
    let cases = cases(&scratch, &[("half", HALF), ("larger", LARGER)]);
    let words =
        ["SKIP larger: the port leaves out virtual-size: disks are never larger", "1 skipped"];
    expect(run(&scratch, "lacking", &cases), 0, &words);
    std::fs::remove_file(cases.join("half.toml")).expect("a case");
    expect(run(&scratch, "lacking", &cases), 3, &words);
}

#[apply(test)]
fn a_counter_that_is_missing_is_told_once(scratch: Scratch) {
    let cases = cases(&scratch, &[("counted", COUNTED), ("counters", COUNTERS)]);
    let words = ["FAIL counters [T2.3]", "there is no failed, which is 0", "1 passed, 1 failed"];
    expect(run(&scratch, "countless", &cases), 1, &words);
}

/// Cases of other rules pass without counters; what speaks of counters isn't kept for that.
#[apply(test)]
fn a_port_without_counters_keeps_no_promise_of_them(scratch: Scratch) {
    let cases = cases(&scratch, &[("counted", COUNTED)]);
    let mut command = run(&scratch, "countless uncounted", &cases);
    command.args(["--json", "report.json"]);
    let (status, said) = told(command);
    assert!(status == Some(0) && !said.contains("are kept"), "own cases say nothing: {said}");
    let text = std::fs::read_to_string(scratch.join("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let promises = report["promises"].as_array().expect("promises").iter();
    let verdicts: Vec<_> = promises.map(|its| (&its["id"], &its["verdict"])).collect();
    let (a7, t2) = ((&"A7.1".into(), &"pass".into()), (&"T2.3".into(), &"skip".into()));
    assert_eq!(verdicts, [a7, t2], "{text}");
}

/// Root without its powers comes nowhere that others close.
#[apply(test)]
#[needs(Root, Setpriv)]
fn a_directory_that_root_can_not_pass_is_named(scratch: Scratch) {
    let powerless = format!("unprivileged = true\n{HALF}");
    let cases = cases(&scratch, &[("half", HALF), ("powerless", &powerless)]);
    let home = scratch.join("home");
    std::fs::create_dir(&home).expect("a folder");
    std::fs::set_permissions(&home, Permissions::from_mode(0o750)).expect("a mode");
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).expect("another user's");
    let closed = format!("chmod o+x {}", home.display());
    let words = ["SKIP powerless: root can't pass", &closed, "1 passed, 1 skipped"];
    expect(run(&home, "", &cases), 0, &words);
    std::fs::set_permissions(&home, Permissions::from_mode(0o711)).expect("a mode");
    expect(run(&home, "", &cases), 0, &["2 cases: 2 passed"]);
}

#[rstest]
#[case::that_fails("all", 0, &["DISABLED all: later", "1 passed, 1 disabled"])]
#[case::that_passes("half", 1, &["it passes; take it out of [disabled]"])]
#[case::that_is_none("nothing", 2, &["shim.toml disables nothing, which is no case"])]
#[test_attr(apply(case))]
fn a_disabled_case(
    scratch: Scratch,
    #[case] disabled: &str,
    #[case] code: i32,
    #[case] words: &[&str],
) {
    let mut all = vec![("half", HALF), ("all", ALL)];
    all.retain(|(name, _)| code != 1 || *name == disabled);
    let cases = cases(&scratch, &all);
    let config = format!("[disabled]\n{disabled} = 'later'\n");
    std::fs::write(scratch.join("shim.toml"), config).expect("a shim.toml");
    expect(run(&scratch, "", &cases), code, words);
}

#[rstest]
#[case::rule(&["--rule", "A99"], 2, "has no A99")]
#[case::promise(&["--rule", "A5.99"], 2, "has no A5.99")]
#[case::no_id(&["--rule", "a5"], 2, "isn't an id of the contract")]
#[case::case_(&["--case", "none"], 2, "none is no case; --list shows them")]
#[case::nothing_left(&["--rule", "R1"], 2, "no case is left")]
#[case::badge_by_other_cases(&["--badge", "b.svg"], 2, "cannot be used with")]
#[case::badge_of_a_part(&["--case", "half", "--badge", "b.svg"], 2, "cannot be used with")]
#[case::report(&["--json", "no/where.json"], 3, "no/where.json: No such file")]
#[case::kept_elsewhere(&["--keep", "cases"], 2, "cases: directory not empty")]
#[case::no_cases(&["--cases", "."], 2, "no file's name ends in .toml")]
#[test_attr(apply(case))]
fn what_can_not_be_done(
    scratch: Scratch,
    #[case] arguments: &[&str],
    #[case] code: i32,
    #[case] words: &str,
) {
    let cases = cases(&scratch, &[("half", HALF)]);
    let mut command = if arguments[0] == "--cases" {
        run(&scratch, "", Path::new("."))
    } else {
        run(&scratch, "", &cases)
    };
    if arguments[0] != "--cases" {
        command.args(arguments);
    }
    expect(command, code, &[words]);
}

#[rstest]
#[case::ends("sh ./shim.sh silent", "hello: the shim ended (exit status: 3)")]
#[case::missing("./nowhere", "can't start `./nowhere`: No such file")]
#[test_attr(apply(case))]
fn a_shim_that_can_not_be_asked(scratch: Scratch, #[case] shim: &str, #[case] words: &str) {
    let _ = run(&scratch, "", &scratch);
    let mut command = judge();
    command.args(["run", "--shim", shim]).current_dir(&*scratch).env("TMPDIR", &*scratch);
    let (status, said) = told(command);
    assert_eq!(status, Some(3), "{said}");
    let words = words.replace("hello: ", "");
    assert!(said.contains(&words) && said.contains("its folder is "), "{said}");
}

#[apply(test)]
#[needs(PidNamespace)]
fn cases_have_folders_and_processes_of_their_own(scratch: Scratch) {
    let case = |base: &str| {
        format!(
            "about = 'Processes.'\npromises = ['L11.3']\nsteps = [\n\
             {{ do = 'write', path = '{base}', text = '' }},\n\
             {{ do = 'start', bases = ['{base}'] }},\n\
             {{ do = 'stop' }},\n]\n"
        )
    };
    let cases = cases(&scratch, &[("one", &case("orphan")), ("two", &case("reaper"))]);
    let mut command = run(&scratch, "", &cases);
    command.args(["--jobs", "2", "--keep", "kept"]);
    let (status, said) = told(command);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("L11.3: processes are left after stop: "), "{said}");
    assert!(said.contains("(tail)") && said.contains("1 passed, 1 failed"), "{said}");
    for name in ["one", "two"] {
        let folder = scratch.join("kept").join(name);
        let log = std::fs::read_to_string(folder.join("shim.log")).expect("its log");
        let own = format!(
            "HOME={} TMPDIR={}",
            folder.join(".home").display(),
            folder.join(".tmp").display()
        );
        assert!(log.contains(&own), "{own}: {log}");
    }
}

#[apply(test)]
fn cases_are_selected(scratch: Scratch) {
    let listed = |arguments: &[&str]| {
        let mut command = judge();
        let (status, said) = told({
            command.args(["run", "--list"]).args(arguments).current_dir(&*scratch);
            command
        });
        assert_eq!(status, Some(0), "{said}");
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = listed(&[]);
    let core = listed(&["--level", "core"]);
    let crash = listed(&["--level", "crash"]);
    assert!(core.len() < crash.len() && crash.len() < all.len(), "each level has more");
    let of = |line: &String| line.split_once('[').expect("its promises").1.to_owned();
    assert!(
        core.iter().map(of).all(|promises| !promises.contains('R') || !promises.contains("R1"))
    );
    let promise = listed(&["--rule", "A5.3"]);
    assert!(promise.iter().all(|line| of(line).contains("A5.3")), "{promise:?}");
    let a5 = listed(&["--rule", "A5"]);
    assert!(!promise.is_empty() && promise.len() < a5.len(), "{promise:?}");
    assert!(a5.len() > 2 && a5.iter().all(|line| of(line).contains("A5")), "{a5:?}");
    assert_eq!(listed(&["--case", "a5-busy"]).len(), 1);
}

/// The report's fields are what programs read: a change of them shows here.
#[apply(test)]
fn the_report_as_json(scratch: Scratch) {
    let cases = cases(
        &scratch,
        &[("half", HALF), ("all", ALL), ("larger", LARGER), ("counters", COUNTERS)],
    );
    std::fs::write(scratch.join("shim.toml"), "[disabled]\ncounters = 'no counters'\n")
        .expect("a shim.toml");
    let mut command = run(&scratch, "lacking countless", &cases);
    command.args(["--json", "report.json", "--junit", "report.xml"]);
    let _ = told(command);
    let text = std::fs::read_to_string(scratch.join("report.json")).expect("a report");
    let mut report: Value = serde_json::from_str(&text).expect("JSON");
    for value in report["host"].as_object_mut().expect("the host").values_mut() {
        *value = "[HOST]".into();
    }
    report["port"]["command"] = "[COMMAND]".into();
    report["selection"]["folder"] = "[CASES]".into();
    for case in report["cases"].as_array_mut().expect("cases") {
        case["seconds"] = "[SECONDS]".into();
        if let Some(folder) = case.get_mut("folder") {
            *folder = "[FOLDER]".into();
        }
    }
    for promise in report["promises"].as_array_mut().expect("promises") {
        promise["text"] = "[TEXT]".into();
    }
    insta::assert_json_snapshot!("report", report);
    let xml = std::fs::read_to_string(scratch.join("report.xml")).expect("a report");
    assert!(xml.contains("<testsuite name=\"Size\" tests=\"3\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("<failure message=\"the size is 2, not 4\" type=\"broken\">"), "{xml}");
    assert!(xml.contains("<skipped message=\"larger: the port leaves out virtual-size: "), "{xml}");
}

/// One command takes everything along that a port is judged by, and a port can be judged by that.
#[apply(test)]
fn the_cases_and_the_guide_are_exported(scratch: Scratch) {
    let directory = scratch.join("a/b");
    let ours = repository().join("tests/conformance");
    let files = || std::fs::read_dir(ours.join("cases")).expect("a directory").flatten();
    let cases = files().filter(|file| file.path().extension().is_some_and(|its| its == "toml"));
    let told = [format!(" and {} cases to ", cases.count()), "; begin with ".to_owned()];
    let mut command = judge();
    command.arg("export").arg(&directory);
    expect(command, 0, &told.each_ref().map(String::as_str));
    let read = |path: PathBuf| std::fs::read(path).expect("a file that can be read");
    for name in ["CONTRACT.md", "PORTING.md", "SHIM.md"] {
        assert!(read(directory.join(name)) == read(ours.join(name)), "{name} is another");
    }
    let mut exported = 0;
    for file in files() {
        let name = file.file_name();
        let [one, other] = [&directory, &ours].map(|folder| folder.join("cases").join(&name));
        assert!(read(one) == read(other), "{} is another", name.display());
        exported += 1;
    }
    assert!(exported > 90, "{exported} files");
    let mut list = judge();
    list.args(["run", "--list", "--cases"]).arg(directory.join("cases"));
    expect(list, 0, &["a2-pooled"]);
}
