//! What this machine lacks, and why.

use super::{HALF, cases, expect, run, told};
use crate::harness::fake_tool::script;
use crate::harness::prelude::*;

/// What the machine lacks is said once, before anything else; the rest is judged.
#[apply(test)]
fn what_the_machine_lacks(scratch: Scratch) {
    let needy = format!("images.\"base.qcow2\" = {{}}\n{HALF}");
    let cases = cases(&scratch, &[("half", HALF), ("needy", &needy), ("needy-too", &needy)]);
    let bin = scratch.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    for program in ["sh", "unshare", "setpriv"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join(program))
            .find(|path| path.is_file());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, bin.join(program)).expect("a link");
        }
    }
    let bare = || {
        let mut command = run(&scratch, "", &cases);
        command.env("PATH", &bin);
        command
    };
    let (status, said) = told(bare());
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said.matches("install qemu-utils").count(), 3, "a table and two cases: {said}");
    assert!(said.contains("2 cases are skipped") && said.contains("1 passed, 2 skipped"), "{said}");
    let mut strict = bare();
    strict.arg("--strict");
    expect(strict, 1, &["1 passed, 2 skipped"]);
}

#[apply(test)]
fn what_fails_without_a_word_has_a_reason_all_the_same(scratch: Scratch) {
    let mounts = format!("mounts.\"small\" = {{ kib = 512 }}\n{HALF}");
    let passed_on = format!("passed_on = [\"user\"]\n{HALF}");
    let cases = cases(&scratch, &[("mounts", &mounts), ("passed-on", &passed_on)]);
    let bin = scratch.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    script(&bin.join("unshare"), "exit 7");
    let mut command = run(&scratch, "", &cases);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", bin.display()));
    let (status, said) = told(command);
    // Of each of two cases, and three times in the table.
    let whys = said.matches("unshare: exit status: 7").count();
    assert_eq!((status, whys), (Some(3), 5), "{said}");
}
