//! Languages that a file configures, and the shell.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay_pool::vm::{Language, Languages, Program, VmManager, VmSettings};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::cli::{self, run};
use crate::harness::prelude::*;
use crate::harness::vm_server::{self, execute, figure, until_ready};
use crate::harness::vms::{
    assert_no_vm_left, create, exec, prints, settings, started, until_ready as until, warmed,
};

const NEEDS: &[Need] = &[Need::QemuSystem, Need::GuestImages, Need::Accelerator];

/// One that is given its code in a file, and one that waits and prints all that it is told.
const FILE: &str = r#"
[isolated]
command = ["/usr/bin/python3", "-I"]
aliases = ["iso"]
images = "python-*-base-*.qcow2"
file = "main.py"
rehearsal = "print('ready')"

[parrot]
command = ["python3", "-c", """
import os
os.write(3, b'w')
print(b''.join(iter(lambda: os.read(3, 4096), b'')))
"""]
waits = true
early = ["PARROT"]
images = "python-*-base-*.qcow2"
"#;

fn file(scratch: &Path) -> PathBuf {
    let path = scratch.join("interpreters.toml");
    std::fs::write(&path, FILE).expect("a file");
    path
}

fn configured(scratch: &Path) -> VmSettings {
    let languages = Languages::read(&file(scratch)).expect("languages");
    VmSettings { languages, ..settings(scratch) }
}

/// Each base image has a busybox; the shell's own is any.
#[apply(test)]
async fn the_shell_runs_code(scratch: Scratch) {
    let own = scratch.join("images");
    std::fs::create_dir(&own).expect("a folder");
    let usual = settings(&scratch);
    let base = VmManager::new(usual.clone()).base_image(Language::PYTHON).expect("an image");
    symlink(base, own.join("raw-base-x86_64.qcow2")).expect("a link");
    let settings = VmSettings {
        kernel_path: Some(usual.kernel()),
        initramfs_path: Some(usual.initramfs()),
        base_images_dir: own,
        ..usual
    };
    let manager = warmed(settings, Language::RAW, 1).await;
    until(&manager, Language::RAW, 1).await;
    let vm = create(&manager, Language::RAW).await;
    assert_eq!(prints(&vm, "echo hello from pool").await, "hello from pool\n");
    // More than the guest takes at once, arguments, input, and an end of its own.
    let code = format!("# {}\necho \"$2 $MODE\"; cat; exit 3", "x".repeat(200_000));
    let program = Program::new(code).argument("one").argument("two words").variable("MODE", "test");
    let (sender, mut parts) = mpsc::channel(4);
    let (outcome, text) = tokio::join!(vm.run(&program, &b"input"[..], sender), async {
        let mut text = Vec::new();
        while let Some((_, part)) = parts.recv().await {
            text.extend(part);
        }
        String::from_utf8(text).expect("text")
    });
    assert_eq!((outcome.expect("an end").end.code(), &*text), (3, "two words test\ninput"));
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
fn the_command_line_runs_a_configured_language(scratch: Scratch) {
    let file = file(&scratch);
    let code = "import sys\nprint(sys.argv, sys.flags.isolated, input())\nsys.exit(3)";
    std::fs::write(scratch.join("code.py"), code).expect("a file");
    std::fs::write(scratch.join("data"), "data\n").expect("a file");
    let mut command = exec(&scratch);
    command.arg("--interpreters").arg(&file).args(["--json", "iso", "code.py", "-x"]);
    let answer = run(command.stdin(std::fs::File::open(scratch.join("data")).expect("a file")));
    let facts: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(facts["stdout"], "['/run/main.py', '-x'] 1 data\n", "{facts}");
    assert_eq!((answer.code, &facts["language"]), (Some(3), &json!("isolated")), "{answer}");

    let mut command = exec(&scratch);
    command.env("OVERLAY_POOL_INTERPRETERS", &file).args(["--env", "A=b", "parrot"]);
    let answer = run(command.args(["-c", "code", "one"]));
    let told = "b'2\\x00-c\\x00one\\x001\\x00A=b\\x00code'\n";
    assert_eq!((answer.code, &*answer.stdout), (Some(0), told), "{answer}");
}

/// An interpreter that looks at a variable when it starts is started with it.
#[apply(test)]
async fn one_that_waits_starts_anew_for_an_early_variable(scratch: Scratch) {
    let settings = configured(&scratch);
    let parrot = settings.languages.find("parrot").expect("a language");
    let manager = started(settings, parrot).await;
    let vm = create(&manager, parrot).await;
    let early = Program::new("import").variable("PARROT", "1");
    for program in [Program::new("code"), early] {
        let (sender, mut parts) = mpsc::channel(4);
        let (outcome, some) = tokio::join!(vm.run(&program, &b""[..], sender), parts.recv());
        assert_eq!(outcome.expect("an end").end.code(), 0, "{program:?}");
        assert!(some.is_some(), "{program:?}");
    }
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

/// No interpreter runs in a saved state: one state is all that the languages of a base need.
#[apply(test)]
async fn languages_of_one_base_share_its_state(scratch: Scratch) {
    let own = scratch.join("states");
    let settings = VmSettings { states_dir: Some(own.clone()), ..configured(&scratch) };
    let manager = VmManager::new(settings);
    manager.start().await.expect("it starts");
    let languages = &manager.settings().languages;
    for name in ["python", "isolated", "parrot"] {
        let language = languages.find(name).expect("a language");
        let vm = create(&manager, language).await;
        assert_eq!(vm.language(), language);
        manager.destroy_vm(&vm).await;
    }
    let entries = own.read_dir().expect("a folder").flatten();
    assert_eq!(entries.filter(|entry| entry.path().join("ram").is_file()).count(), 1);
    manager.stop().await;
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
async fn a_server_runs_a_configured_language(scratch: Scratch) {
    let file = file(&scratch);
    let file = file.to_str().expect("text");
    let options = ["--interpreters", file, "--language", "isolated=1,parrot=1"];
    let server = vm_server::start(&scratch, 3, &options);
    until_ready(&server, "isolated", 1);
    until_ready(&server, "parrot", 1);
    let code = "import sys; print(sys.argv, sys.flags.isolated)";
    let request = json!({ "language": "isolated", "code": code, "arguments": ["one"] });
    let ran = execute(&server, &request);
    assert_eq!(ran.printed(), "['/run/main.py', 'one'] 1\n");
    assert_eq!(ran.events[0]["start"], "warm");
    let ran = execute(&server, &json!({ "language": "parrot", "code": "code" }));
    assert_eq!(ran.printed(), "b'1\\x00-c\\x000\\x00code'\n");
    assert_eq!(ran.events[0]["start"], "warm");
    let asks = r#"overlay_pool_vm_asks_total{language="isolated",start="warm"}"#;
    assert_eq!(figure(&server, asks), Some(1));

    let kept = server.post("/v1/vms", &json!({ "language": "isolated" }));
    let kept: Value = serde_json::from_str(&kept.body).expect("a VM");
    assert_eq!(kept["language"], "isolated", "{kept}");

    // Those that there are.
    for path in ["/v1/execute", "/v1/vms"] {
        let refused = server.post(path, &json!({ "language": "cobol", "code": "" }));
        if path == "/v1/execute" {
            let there = "there are python, javascript, raw, isolated, parrot";
            assert!(refused.body.contains(there), "{refused:?}");
        }
        assert_eq!(refused.problem(422), "bad-request");
    }

    // A client needs no file of its own.
    let mut command = cli::overlay_pool(&scratch);
    command.arg("exec").env("OVERLAY_POOL_SOCKET", server.socket());
    let answer = run(command.args(["-v", "isolated", "-c", "print('hello')"]));
    assert_eq!((answer.code, &*answer.stdout), (Some(0), "hello\n"), "{answer}");
    assert!(answer.stderr.contains("a server's VM"), "{answer}");
    let mut command = cli::overlay_pool(&scratch);
    command.arg("exec").arg("--socket").arg(server.socket());
    let answer = run(command.args(["cobol", "-c", ""]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("no language \"cobol\""), "{answer}");
    server.stop();
    assert_no_vm_left(&scratch).await;
}

#[apply(test)]
fn what_can_not_be_used_is_named(scratch: Scratch) {
    let python = |command: &mut Command| run(command.args(["python", "-c", "print()"]));
    let bad = scratch.join("bad.toml");
    std::fs::write(&bad, "[ruby]\ncommand = ['ruby']\ncolour = 'red'\n").expect("a file");
    let answer = python(exec(&scratch).arg("--interpreters").arg(&bad));
    assert_eq!(answer.code, Some(2), "{answer}");
    assert!(answer.stderr.contains("bad.toml: line 3: unknown field `colour`"), "{answer}");
    let answer = python(exec(&scratch).env("OVERLAY_POOL_INTERPRETERS", &bad));
    assert_eq!(answer.code, Some(2), "{answer}");
    assert!(answer.stderr.contains("bad.toml: line 3: unknown field `colour`"), "{answer}");
    let answer = python(exec(&scratch).args(["--interpreters", "nowhere.toml"]));
    assert_eq!(answer.code, Some(1), "{answer}");
    assert!(answer.stderr.contains("nowhere.toml: No such file"), "{answer}");

    let answer = run(exec(&scratch).args(["cobol", "-c", ""]));
    assert_eq!(answer.code, Some(2), "{answer}");
    let there = "no language \"cobol\": there are python, javascript, raw; name others with";
    assert!(answer.stderr.contains(there), "{answer}");
    let missing = scratch.join("ruby.toml");
    std::fs::write(&missing, "[ruby]\ncommand = ['ruby']\n").expect("a file");
    let answer = run(exec(&scratch).arg("--interpreters").arg(&missing).args(["ruby", "-c", ""]));
    assert_eq!(answer.code, Some(125), "{answer}");
    assert!(answer.stderr.contains("(as ruby-*-base-*.qcow2)"), "{answer}");

    let mut doctor = cli::overlay_pool(&scratch);
    let answer = run(doctor.arg("doctor").env("OVERLAY_POOL_INTERPRETERS", &missing));
    assert!(answer.stdout.contains("ruby: no ruby-*-base-*.qcow2 in"), "{answer}");

    let mut serve = vm_server::command(&scratch, 2);
    let answer = run(serve.arg("--interpreters").arg(&missing).args(["--language", "cobol=1"]));
    assert_eq!(answer.code, Some(2), "{answer}");
    let there = "--language: no language \"cobol\": there are python, javascript, raw, ruby";
    assert!(answer.stderr.contains(there), "{answer}");
}

/// A language in which nothing is no program: without a rehearsal of its own its VMs wait all the same.
#[apply(test)]
async fn one_without_a_rehearsal_waits(scratch: Scratch) {
    let path = scratch.join("picky.toml");
    let command = r#"["/bin/sh", "-c", "test -s $0 && exec /bin/sh $0"]"#;
    std::fs::write(
        &path,
        format!("[picky]\ncommand = {command}\nimages = 'python-*-base-*.qcow2'"),
    )
    .expect("a file");
    let path = path.to_str().expect("a plain path");
    let server = vm_server::start(&scratch, 2, &["--interpreters", path, "--language", "picky=1"]);
    until_ready(&server, "picky", 1);
    let ran = execute(&server, &json!({ "language": "picky", "code": "echo well" }));
    assert_eq!((ran.printed().as_str(), &ran.events[0]["start"]), ("well\n", &json!("warm")));
    server.stop();
    assert_no_vm_left(&scratch).await;
}
