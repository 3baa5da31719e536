//! `overlay-pool bench`: the figures it promises, and that it leaves nothing behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::cli::{Answer, overlay_pool, run};
use crate::harness::fake_tool::script;
use crate::harness::prelude::*;
use crate::harness::qemu;

const NEEDS: &[Need] = &[Need::QemuImg, Need::QemuIo, Need::StorageDaemon];

/// How many overlays each creator makes ahead; it hands over three times as many.
const COUNT: usize = 6;

/// A bench in `folder`.
fn bench(folder: &Path) -> Command {
    bench_of(COUNT, folder)
}

fn bench_of(count: usize, folder: &Path) -> Command {
    let mut command = overlay_pool(folder);
    command.args(["bench", "--count", &count.to_string()]);
    command
}

fn path() -> OsString {
    std::env::var_os("PATH").expect("a PATH")
}

#[track_caller]
fn figures(command: &mut Command) -> Value {
    let Answer { code, stdout, stderr } = run(command.arg("--json"));
    // No progress bar in a pipe.
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&stdout).expect("one JSON object")
}

/// What a bench that can't go on says.
#[track_caller]
fn refusal(command: &mut Command, exit: i32) -> String {
    let Answer { code, stdout, stderr } = run(command);
    assert_eq!((code, stdout.as_str()), (Some(exit), ""), "{stderr}");
    stderr
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}

#[track_caller]
fn number(figures: &Value, pointer: &str) -> f64 {
    let found = figures.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {figures:#}"));
    found.as_f64().unwrap_or_else(|| panic!("{pointer} is {found}"))
}

/// Every promised figure is there and can be one.
#[track_caller]
fn assert_sane(figures: &Value, creators: &[&str]) {
    let measured: Vec<&String> =
        figures["creators"].as_object().expect("creators").keys().collect();
    assert_eq!(measured.len(), creators.len(), "{measured:?}");
    for pointer in ["/floor/rename_us", "/floor/create_us"] {
        assert!(number(figures, pointer) > 0.0, "{pointer}");
    }
    for creator in creators {
        let of = |figure: &str| number(figures, &format!("/creators/{creator}/{figure}"));
        for figure in ["stock_ms", "restock_ms", "acquires_per_s/1", "acquires_per_s/64"] {
            assert!(of(figure) > 0.0, "{creator} {figure}");
        }
        for figure in ["pooled_us", "on_demand_us"] {
            let (p50, p99) = (of(&format!("{figure}/p50")), of(&format!("{figure}/p99")));
            assert!(0.0 < p50 && p50 <= p99, "{creator} {figure}: {p50}, {p99}");
        }
        assert!(of("disk_bytes") >= 4096.0, "{creator}");
        assert!(of("ratios/pooled_to_rename") > 0.0, "{creator}");
    }
    let checked = figures["checked"]["overlays"].as_u64().expect("a count");
    assert_eq!(checked, (3 * COUNT * creators.len()) as u64);
}

#[rstest]
#[test_attr(apply(case))]
fn every_creator_has_every_figure(scratch: Scratch) {
    let figures = figures(&mut bench(&scratch));
    assert_sane(&figures, &["native", "storage-daemon", "qemu-img"]);
    assert!(number(&figures, "/qemu_img/create_us") > 0.0);
    assert!(number(&figures, "/floor/qmp_us") > 0.0);
    assert!(number(&figures, "/checked/with_qemu_img") > 0.0);
    assert_eq!(figures["missing"], serde_json::json!({}));
    assert_eq!(figures["base"]["format"], "qcow2");
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

/// The native creator writes sparse files: at most 16 KiB where QEMU takes 388.
#[rstest]
#[test_attr(apply(case))]
fn a_base_of_ones_own(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    qemu::base_image(&base, "1G");
    let before = fs::read(&base).expect("the base");
    let mut command = bench(&scratch);
    let figures = figures(command.args(["--creator", "native", "--base"]).arg(&base));
    assert_sane(&figures, &["native"]);
    assert!(number(&figures, "/creators/native/disk_bytes") <= 16384.0);
    assert_eq!(figures["base"]["made"], false);
    assert_eq!(figures["base"]["virtual_size"], 1 << 30);
    assert!(fs::read(&base).expect("the base") == before, "the base is as it was");
    assert_eq!(entries(&scratch), [base]);
}

#[rstest]
#[test_attr(apply(case))]
fn the_table_says_what_was_checked(scratch: Scratch) {
    let Answer { code, stdout: table, stderr } = run(&mut bench(&scratch));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(table.starts_with("machine  "), "{table}");
    assert!(table.contains("checked  all 54 overlays are sound"), "{table}");
    assert!(!table.contains('\u{1b}'), "no control codes in a pipe: {table}");
    for creator in ["native", "storage-daemon", "qemu-img"] {
        assert!(table.contains(creator), "{table}");
    }
}

#[rstest]
#[test_attr(apply(case))]
fn a_large_pool_stands_beside_a_small_one(scratch: Scratch) {
    let mut command = bench(&scratch);
    let figures = figures(command.args(["--creator", "native", "--ready", "300"]));
    let large = &figures["large"];
    assert_eq!((&large["ready"], &large["small_ready"]), (&300.into(), &100.into()));
    assert!(number(&figures, "/large/pooled_to_small") > 0.0);
    assert_eq!(figures["checked"]["overlays"], 3 * COUNT + 2000);
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

/// A signal ends it at once, and what it made goes.
#[rstest]
#[case(Signal::INT)]
#[case(Signal::TERM)]
#[test_attr(apply(case))]
async fn a_signal_leaves_nothing(scratch: Scratch, #[case] signal: Signal) {
    let mut command = bench_of(100_000, &scratch);
    command.args(["--creator", "storage-daemon"]);
    let measuring = || entries(&scratch).iter().any(|folder| entries(folder).len() > 1);
    end_by(signal, command, measuring).await;
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

/// Sends a bench a signal once it measures, and waits for its end.
async fn end_by(signal: Signal, mut command: Command, measuring: impl FnMut() -> bool) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    let bench = command.kill_on_drop(true).spawn().expect("a bench");
    eventually("the bench measures", measuring).await;
    let pid = bench.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a PID");
    kill_process(pid, signal).expect("the signal is sent");
    let output = bench.wait_with_output().await.expect("the bench ends");
    assert_eq!(output.status.code(), Some(1), "it ended by itself");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
}

/// A `qemu-img` that does something else where a shell pattern fits its arguments.
fn faulty_qemu_img(scratch: &Path, pattern: &str, instead: &str) -> PathBuf {
    let program = std::env::split_paths(&path())
        .map(|folder| folder.join("qemu-img"))
        .find(|program| program.is_file())
        .expect("qemu-img");
    let folder = scratch.join("bin");
    fs::create_dir(&folder).expect("a folder");
    let body =
        format!("case \"$*\" in {pattern}) {instead};; esac\nexec {} \"$@\"", program.display());
    script(&folder.join("qemu-img"), &body);
    folder
}

/// A9: one bad overlay is enough to fail, whoever finds it.
#[rstest]
#[case::header(
    "native-check",
    "create*/proc/self/fd/0*",
    "echo no overlay >/proc/self/fd/0; exit 0",
    "magic"
)]
#[case::qemu_img("qemu-check", "check*", "echo leaked clusters; exit 3", "leaked clusters")]
#[test_attr(apply(case))]
fn a9_a_bad_overlay_fails_the_bench(
    scratch: Scratch,
    #[case] folder: &str,
    #[case] pattern: &str,
    #[case] instead: &str,
    #[case] cause: &str,
) {
    let bin = faulty_qemu_img(&scratch, pattern, instead);
    let folder = scratch.join(folder);
    fs::create_dir(&folder).expect("a folder");
    let path = [bin.into_os_string(), path()].join(OsStr::new(":"));
    let stderr = refusal(bench(&folder).env("PATH", path).args(["--creator", "qemu-img"]), 1);
    assert!(stderr.contains("creator qemu-img made a bad overlay"), "{stderr}");
    assert!(stderr.contains(cause), "{stderr}");
    assert_eq!(entries(&folder), [] as [PathBuf; 0]);
}

#[rstest]
#[test_attr(apply(case))]
fn a_bad_base_is_refused(scratch: Scratch) {
    let base = scratch.join("base.qcow2");
    fs::write(&base, "no image").expect("a file");
    let stderr = refusal(bench(&scratch).arg("--base").arg(&base), 3);
    assert!(stderr.contains("base.qcow2"), "{stderr}");
    assert_eq!(entries(&scratch), [base]);
}

mod serve {
    //! A server under load.

    use super::{Answer, Signal, bench_of, end_by, entries, figures, number, refusal, run};
    use crate::harness::prelude::*;

    const NEEDS: &[Need] = &[Need::QemuImg];

    /// Two acquires of each client in each round.
    const COUNT: usize = 640;

    fn bench(scratch: &Scratch, count: usize) -> std::process::Command {
        let mut command = bench_of(count, scratch);
        command.args(["--serve", "--dir"]).arg(&**scratch);
        command
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn a_server_stands_beside_a_pool_in_process(#[from(scratch_in_memory)] scratch: Scratch) {
        let figures = figures(&mut bench(&scratch, COUNT));
        assert_eq!((&figures["clients"], &figures["ready"]), (&64.into(), &COUNT.into()));
        for side in ["serve", "in_process"] {
            let of = |figure: &str| number(&figures, &format!("/{side}/{figure}"));
            assert_eq!((of("plain/acquires"), of("larger/acquires")), (640.0, 320.0), "{side}");
            // No more are acquired than are ready at the start.
            assert_eq!((of("plain/pooled_percent"), of("larger/pooled_percent")), (100.0, 0.0));
            for figure in ["plain/pooled_us", "paced/pooled_us", "larger/on_demand_us"] {
                let (p50, p99) = (of(&format!("{figure}/p50")), of(&format!("{figure}/p99")));
                assert!(0.0 < p50 && p50 <= p99, "{side} {figure}: {p50}, {p99}");
            }
            assert!(of("plain/acquires_per_s") > 0.0 && of("larger/acquires_per_s") > 0.0);
        }
        for ratio in ["acquires_per_s", "pooled_p50", "on_demand_p50"] {
            assert!(number(&figures, &format!("/ratios/{ratio}")) > 0.0, "{ratio}");
        }
        assert!(number(&figures, "/cpu_us_per_acquire") >= 0.0);
        let memory = |when: &str| number(&figures, &format!("/memory_bytes/{when}"));
        for when in ["start", "early", "end"] {
            assert!(0.0 < memory(when) && memory(when) <= memory("most"), "{when}");
        }
        // Each client keeps one of each round.
        assert_eq!(figures["checked"]["overlays"], 2 * 64 * (5 + 5 + 5));
        assert!(number(&figures, "/checked/with_qemu_img") > 0.0);
        assert_eq!(figures["targets"].as_array().map(Vec::len), Some(3));
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn the_table_has_both_sides(#[from(scratch_in_memory)] scratch: Scratch) {
        let Answer { code, stdout: table, stderr } = run(&mut bench(&scratch, 1));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        for line in ["machine  ", "load     64 clients at once, 320 overlays ready", "checked  "] {
            assert!(table.lines().any(|found| found.starts_with(line)), "{line}: {table}");
        }
        for text in ["serve  in process", "pooled p99, µs", "Its memory: "] {
            assert!(table.contains(text), "{text}: {table}");
        }
    }

    /// A signal ends the server too.
    #[rstest]
    #[test_attr(apply(case))]
    async fn a_signal_leaves_no_server(#[from(scratch_in_memory)] scratch: Scratch) {
        let command = bench(&scratch, 1_000_000);
        let served = || {
            let folder = entries(&scratch).pop();
            folder.is_some_and(|folder| folder.join("server-targets/63/1.qcow2").exists())
        };
        end_by(Signal::TERM, command, served).await;
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }

    /// A socket's path has at most 107 bytes.
    #[rstest]
    #[test_attr(apply(case))]
    fn a_server_that_fails_is_told(#[from(scratch_in_memory)] scratch: Scratch) {
        let folder = scratch.join("f".repeat(100));
        std::fs::create_dir(&folder).expect("a folder");
        let stderr = refusal(bench_of(1, &scratch).args(["--serve", "--dir"]).arg(&folder), 1);
        assert!(stderr.contains("overlay-pool serve: exit status: "), "{stderr}");
        assert_eq!(entries(&folder), [] as [std::path::PathBuf; 0]);
    }
}

mod without_qemu {
    //! A machine that has no QEMU.

    use super::{assert_sane, bench, entries, figures, refusal};
    use crate::harness::prelude::*;

    const NEEDS: &[Need] = &[];

    #[rstest]
    #[test_attr(apply(case))]
    fn the_native_creator_is_measured(#[from(scratch_in_memory)] scratch: Scratch) {
        let figures = figures(bench(&scratch).env("PATH", ""));
        assert_sane(&figures, &["native"]);
        assert_eq!(figures["qemu_img"], serde_json::Value::Null);
        assert_eq!(figures["machine"]["qemu"], serde_json::Value::Null);
        assert_eq!(figures["base"]["format"], "raw");
        for creator in ["storage-daemon", "qemu-img"] {
            let reason = figures["missing"][creator].as_str().expect("a reason");
            assert!(reason.contains("can't run"), "{reason}");
        }
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn a_creator_that_was_asked_for_must_be_there(
        scratch: Scratch,
        #[values("storage-daemon", "qemu-img")] creator: &str,
    ) {
        let stderr = refusal(bench(&scratch).env("PATH", "").args(["--creator", creator]), 5);
        assert!(stderr.contains(&format!("creator {creator}: can't run")), "{stderr}");
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }
}
