//! The command line, run as a user runs it: the real program in a clean environment.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use insta::Settings;

/// What a run of the program said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        write!(f, "exit code: {code}\n--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// `overlay-pool` with nothing of the tester's environment but `PATH` and where a run that is
/// measured notes the lines it ran; home, temporary files, pool directory and working directory
/// are the test's folder.
pub(crate) fn overlay_pool(scratch: &Path) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_overlay-pool")), scratch)
}

/// `overlay-pool` in a mount namespace of its own, after `setup`, a line of shell, ran there.
pub(crate) fn overlay_pool_after(setup: &str, scratch: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{setup} && exec \"$0\" \"$@\"");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(env!("CARGO_BIN_EXE_overlay-pool"));
    clean(command, scratch)
}

pub(crate) fn clean(mut command: Command, scratch: &Path) -> Command {
    command.env_clear().current_dir(scratch).stdin(Stdio::null());
    let kept = ["PATH", "LLVM_PROFILE_FILE"];
    command.envs(kept.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("HOME", scratch).env("TMPDIR", scratch);
    command.env("OVERLAY_POOL_DIR", scratch.join("pool"));
    command
}

/// Runs to the end.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Answer {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Answer { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Runs `overlay-pool` with these arguments.
#[track_caller]
pub(crate) fn answer(scratch: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Answer {
    run(overlay_pool(scratch).args(args))
}

/// Compares with a snapshot in which what differs between runs and machines has a name.
macro_rules! assert_answer {
    ($scratch:expr, $name:expr, $answer:expr) => {{
        let settings = $crate::harness::cli::settings(&$scratch);
        settings.bind(|| insta::assert_snapshot!($name, $answer));
    }};
}
pub(crate) use assert_answer;

pub(crate) fn settings(scratch: &Path) -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.add_filter(r"pool-[0-9a-f]{32}", "[POOL]");
    settings.add_filter(&regex_of(scratch), "[DIR]");
    settings.add_filter(r#"(on disk +|"disk_size": )[^\n,]+"#, "$1[ON DISK]");
    settings.add_filter(r#"("took_us":)\d+|\d+ µs"#, "${1}[TIME]");
    settings.add_filter(r#""time":[0-9.]+"#, r#""time":[TIME]"#);
    settings
}

/// A regular expression for a path and nothing else.
fn regex_of(path: &Path) -> String {
    let escape =
        |char: char| if char.is_alphanumeric() { char.into() } else { format!("\\{char}") };
    path.to_str().expect("a folder named in UTF-8").chars().map(escape).collect()
}
