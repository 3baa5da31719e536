//! `overlay-pool bench` and the benchmarks in `tests/bench`: that the figures are what they say they
//! are, and that nothing is left behind. Nothing is said of how long anything takes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::bench as other;
use crate::harness::cli::{Answer, overlay_pool, run};
use crate::harness::fake_tool::script;
use crate::harness::prelude::*;

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

/// What a benchmark says, whose exit code is 1 exactly if it missed a target.
#[track_caller]
fn figures(command: &mut Command) -> Value {
    let Answer { code, stdout, stderr } = run(command.arg("--json"));
    let figures: Value = serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("one JSON object, {error}: {stdout}{stderr}"));
    let targets = figures["targets"].as_array().expect("targets");
    let missed = targets.iter().filter(|target| target["verdict"] == "missed").count();
    // No progress in a pipe.
    assert_eq!(stderr.lines().count(), missed.min(1), "{stderr}");
    assert_eq!(code, Some(i32::from(missed > 0)), "{targets:?}");
    assert!(missed == 0 || stderr.contains(&format!("{missed} targets were missed")), "{stderr}");
    figures
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

type Columns = BTreeMap<String, BTreeMap<String, f64>>;

#[track_caller]
fn columns(columns: &Value) -> Columns {
    serde_json::from_value(columns.clone()).unwrap_or_else(|error| panic!("{error}: {columns:#}"))
}

/// One of each is the other's multiple, and says so.
#[track_caller]
fn assert_ratio(ratio: f64, one: f64, by: f64) {
    assert!((ratio * by - one).abs() <= 1e-9 * one, "{ratio} is not {one} by {by}");
}

/// Each promise is judged on the figure of the column that it names, and as it was measured: on
/// tmpfs not at all, by the program's own word for it.
#[track_caller]
fn assert_judged(columns: &Columns, targets: &Value, unless: Option<&str>) {
    for target in targets.as_array().expect("targets") {
        let [name, wanted, verdict] =
            ["name", "wanted", "verdict"].map(|key| target[key].as_str().expect("text"));
        let [column, sign, limit] = wanted.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{target}");
        };
        let measured = columns[column][name];
        assert_eq!(target["measured"], measured, "{target}");
        let limit: f64 = limit.replace(',', "").parse().expect("a number");
        let met = if sign == "≤" { measured <= limit } else { measured >= limit };
        let expected = match unless {
            Some(unless) => format!("not judged: {unless}"),
            None => if met { "met" } else { "missed" }.to_owned(),
        };
        assert_eq!(verdict, expected, "{target}");
    }
}

/// Why promises for a disk aren't judged, by what the figures say of the machine.
fn not_a_disk(figures: &Value) -> Option<&'static str> {
    figures["machine"].as_str().expect("a machine").contains(", tmpfs,").then_some("tmpfs")
}

/// Every promised figure is there, and fits the others.
#[track_caller]
fn assert_sane(figures: &Value, creators: &[&str], qemu: bool) {
    let columns = columns(&figures["creators"]);
    assert_eq!(columns.keys().collect::<Vec<_>>(), creators);
    for (creator, figures) in &columns {
        assert_eq!(Some(&figures["overlays"]), Some(&6.0), "{creator}");
        for phase in ["pooled", "on_demand"] {
            let of = |name: &str| figures[&name.replace('*', phase)];
            assert!(0.0 < of("*_p50_us") && of("*_p50_us") <= of("*_p99_us"), "{figures:?}");
            assert_ratio(of("*_by_bare"), of("*_p50_us"), of("*_bare_p50_us"));
            if qemu {
                assert_ratio(of("qemu_img_by_*"), of("*_qemu_img_p50_us"), of("*_p50_us"));
            }
        }
        assert_eq!(figures.contains_key("stock_by_qemu_img"), qemu, "{figures:?}");
        assert!(figures["stock_us"] > 0.0 && figures["acquires_per_s_64_tasks"] > 0.0);
        // The native creator writes sparse files; QEMU's take 388 KiB.
        assert!(figures["disk_kib"] >= 4.0, "{creator}");
        assert!(creator != "native" || figures["disk_kib"] <= 16.0, "{figures:?}");
    }
    assert_judged(&columns, &figures["targets"], not_a_disk(figures));
    let judged = if columns.contains_key("native") { 2 + 2 * usize::from(qemu) } else { 0 };
    assert_eq!(figures["targets"].as_array().map(Vec::len), Some(judged));
    assert_eq!(figures["sound"], 3 * COUNT * creators.len());
}

#[rstest]
#[test_attr(apply(case))]
fn every_creator_has_every_figure(scratch: Scratch) {
    let figures = figures(&mut bench(&scratch));
    assert_sane(&figures, &["native", "qemu-img", "storage-daemon"], true);
    assert_eq!(figures["missing"], serde_json::json!({}));
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

#[rstest]
#[test_attr(apply(case))]
fn the_table_says_what_was_checked(scratch: Scratch) {
    let Answer { stdout: table, .. } = run(&mut bench(&scratch));
    assert!(table.contains(" All 54 overlays are sound.\n"), "{table}");
    assert!(!table.contains('\u{1b}'), "no control codes in a pipe: {table}");
    let header = table.lines().find(|line| line.ends_with("storage-daemon")).expect("a header");
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>(),
        ["native", "qemu-img", "storage-daemon"]
    );
    let row = |label: &str| table.lines().find(|line| line.starts_with(label));
    let judged = row("  acquire ÷ renameat2").expect("a row");
    assert!(judged.contains("native ≤ 1.5: "), "{judged}");
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
    let code = end_by(signal, command, measuring).await;
    assert_eq!(code, Some(128 + signal.as_raw()));
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

/// Sends a bench a signal once it measures, and waits for its exit code.
async fn end_by(
    signal: Signal,
    mut command: Command,
    measuring: impl FnMut() -> bool,
) -> Option<i32> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    let bench = command.kill_on_drop(true).spawn().expect("a bench");
    eventually("the bench measures", measuring).await;
    let pid = bench.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).expect("a PID");
    kill_process(pid, signal).expect("the signal is sent");
    let output = bench.wait_with_output().await.expect("the bench ends");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    output.status.code()
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
    assert!(stderr.contains("creator qemu-img: bad overlay"), "{stderr}");
    assert!(stderr.contains(cause), "{stderr}");
    assert_eq!(entries(&folder), [] as [PathBuf; 0]);
}

#[rstest]
#[test_attr(apply(case))]
fn the_storage_daemon_stands_beside_its_bare_commands(scratch: Scratch) {
    let figures = figures(other::command("daemon", &scratch).args(["--count", "6"]));
    let columns = columns(&figures["columns"]);
    let of = |name: &str| columns["storage-daemon"][name];
    assert_eq!((of("acquires"), &figures["sound"]), (6.0, &6.into()));
    for name in ["on_demand", "bare"] {
        let (p50, p99) = (of(&format!("{name}_p50_us")), of(&format!("{name}_p99_us")));
        assert!(0.0 < p50 && p50 <= p99, "{name}: {p50}, {p99}");
    }
    assert_ratio(of("on_demand_by_bare"), of("on_demand_p50_us"), of("bare_p50_us"));
    assert_judged(&columns, &figures["targets"], not_a_disk(&figures));
    assert_eq!(figures["targets"].as_array().map(Vec::len), Some(1));
    assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
}

mod serve {
    //! A server under load.

    use super::{
        Answer, Signal, assert_judged, assert_ratio, columns, end_by, entries, figures, other,
        refusal, run,
    };
    use crate::harness::prelude::*;

    const NEEDS: &[Need] = &[Need::QemuImg];

    fn bench(scratch: &Scratch, count: usize) -> std::process::Command {
        let mut command = other::command("server", scratch);
        command.args(["--rounds", "1", "--count", &count.to_string()]);
        command
    }

    /// Two acquires of each client as fast as can be, and one of each other kind.
    #[rstest]
    #[test_attr(apply(case))]
    fn a_server_stands_beside_a_pool_in_process(#[from(scratch_in_memory)] scratch: Scratch) {
        let figures = figures(&mut bench(&scratch, 128));
        let columns = columns(&figures["columns"]);
        for bare in ["bare", "bare, a hop"].map(|name| &columns[name]) {
            assert_eq!((bare["plain_acquires"], bare["paced_acquires"]), (128.0, 64.0));
            assert!(!bare.contains_key("ready") && !bare.contains_key("larger_acquires"));
        }
        assert_eq!(columns.len(), 4);
        for (side, figures) in columns.iter().filter(|(side, _)| !side.starts_with("bare")) {
            let of = |figure: &str| figures[figure];
            assert_eq!((of("ready"), of("plain_acquires")), (128.0, 128.0), "{side}");
            assert_eq!((of("paced_acquires"), of("larger_acquires")), (64.0, 64.0), "{side}");
            // No more are acquired than are ready at the start, and none of a larger disk are.
            assert_eq!((of("plain_pooled_percent"), of("paced_pooled_percent")), (100.0, 100.0));
            assert_eq!(Some(of("larger_pooled_percent")), Some(0.0), "{side}");
            for figure in ["plain_pooled", "paced_pooled", "larger_on_demand"] {
                let (p50, p99) = (of(&format!("{figure}_p50_us")), of(&format!("{figure}_p99_us")));
                assert!(0.0 < p50 && p50 <= p99, "{side} {figure}: {p50}, {p99}");
            }
            assert!(!figures.contains_key("plain_on_demand_p50_us"), "of no acquires: {figures:?}");
        }
        let (serve, in_process) = (&columns["serve"], &columns["in process"]);
        let (per_s, bare) = ("plain_per_s", &columns["bare"]);
        let floor = 1.0 / (1.0 / in_process[per_s] + 1.0 / bare[per_s]);
        assert_ratio(serve["plain_per_s_by_floor"], serve[per_s], floor);
        for figure in ["paced_pooled_p50", "paced_pooled_p99"] {
            let us = format!("{figure}_us");
            assert_ratio(serve[&format!("{figure}_by_bare")], serve[&us], bare[&us]);
        }
        // Who isn't root can't be two users.
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            let (crowd, spinners) = (serve["crowd_p99_us"], serve["spinners_p99_us"]);
            assert_ratio(serve["crowd_p99_by_spinners"], crowd, spinners);
        }
        let memory = |when: &str| serve[&format!("memory_{when}_mib")];
        for when in ["start", "early", "end"] {
            assert!(0.0 < memory(when) && memory(when) <= memory("most"), "{when}");
        }
        assert_ratio(serve["memory_end_by_early"], memory("end"), memory("early"));
        let targets = 6 + usize::from(is_root);
        assert_eq!(figures["targets"].as_array().map(Vec::len), Some(targets));
        let machine = figures["machine"].as_str().expect("a machine");
        let verdict = figures["targets"][0]["verdict"].as_str().expect("a verdict");
        let unless = verdict.strip_prefix("not judged: ").expect("one round is nothing to judge");
        assert!(unless == "one round" || machine.contains(unless) || unless == "one core");
        assert_judged(&columns, &figures["targets"], Some(unless));
        // Each client keeps one of each round.
        assert_eq!(figures["sound"], 2 * 64 * 3);
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn the_table_has_both_sides(#[from(scratch_in_memory)] scratch: Scratch) {
        let Answer { code, stdout: table, stderr } = run(&mut bench(&scratch, 1));
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(table.contains("64 clients of a server"), "{table}");
        for row in ["overlays ready at most ", "  pooled p99, µs ", "memory at the end, MiB "] {
            assert!(table.lines().any(|found| found.starts_with(row)), "{row}: {table}");
        }
    }

    /// A signal ends the server too. It comes soon, whatever else keeps the processors busy.
    #[rstest]
    #[test_attr(apply(case))]
    async fn a_signal_leaves_no_server(#[from(scratch_in_memory)] scratch: Scratch) {
        let command = bench(&scratch, 2560);
        let served = || {
            let folder = entries(&scratch).pop().unwrap_or_default();
            std::fs::read_dir(folder.join("server-targets/63")).is_ok_and(|got| got.count() > 0)
        };
        assert_eq!(end_by(Signal::TERM, command, served).await, Some(1));
        assert_eq!(entries(&scratch), [] as [std::path::PathBuf; 0]);
    }

    /// A socket's path has at most 107 bytes.
    #[rstest]
    #[test_attr(apply(case))]
    fn a_server_that_fails_is_told(#[from(scratch_in_memory)] scratch: Scratch) {
        let folder = scratch.join("f".repeat(100));
        std::fs::create_dir(&folder).expect("a folder");
        let mut command = other::command("server", &folder);
        let stderr = refusal(command.args(["--count", "1"]), 1);
        assert!(stderr.contains("overlay-pool serve: exit status: "), "{stderr}");
        assert_eq!(entries(&folder), [] as [std::path::PathBuf; 0]);
    }
}

mod without_qemu {
    //! A machine that has no QEMU.

    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use overlay_pool::image::{Format, Overlay, Profile};

    use super::{
        assert_judged, assert_ratio, assert_sane, bench, columns, entries, figures, not_a_disk,
        other, refusal,
    };
    use crate::bench::ground;
    use crate::harness::prelude::*;

    const NEEDS: &[Need] = &[];

    #[rstest]
    #[test_attr(apply(case))]
    fn the_native_creator_is_measured(#[from(scratch_in_memory)] scratch: Scratch) {
        let figures = figures(bench(&scratch).env("PATH", ""));
        assert_sane(&figures, &["native"], false);
        assert!(figures["machine"].as_str().expect("a machine").ends_with(", no QEMU"));
        for creator in ["storage-daemon", "qemu-img"] {
            let reason = figures["missing"][creator].as_str().expect("a reason");
            assert!(reason.contains("can't run"), "{reason}");
        }
        assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn a_creator_that_was_asked_for_must_be_there(
        scratch: Scratch,
        #[values("storage-daemon", "qemu-img")] creator: &str,
    ) {
        let stderr = refusal(bench(&scratch).env("PATH", "").args(["--creator", creator]), 5);
        assert!(stderr.contains(&format!("creator {creator}: can't run")), "{stderr}");
        assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
    }

    #[rstest]
    #[test_attr(apply(case))]
    fn a_large_pool_stands_beside_a_small_one(scratch: Scratch) {
        let mut command = other::command("ready", &scratch);
        let figures = figures(command.env("PATH", "").args(["--ready", "300", "--count", "25"]));
        let columns = columns(&figures["columns"]);
        let (small, large) = (&columns["small"], &columns["large"]);
        assert_eq!((small["ready"], large["ready"]), (100.0, 300.0));
        assert_eq!((small["acquires"], large["acquires"]), (25.0, 25.0));
        for column in [small, large] {
            assert!(0.0 < column["pooled_p50_us"]);
            assert!(column["pooled_p50_us"] <= column["pooled_p99_us"], "{column:?}");
        }
        let p50 = "pooled_p50_us";
        assert_ratio(large["large_by_small"], large[p50], small[p50]);
        let unless = not_a_disk(&figures).unwrap_or("fewer than 10000 ready");
        assert_judged(&columns, &figures["targets"], Some(unless));
        assert_eq!(figures["targets"].as_array().map(Vec::len), Some(2));
        assert_eq!(figures["sound"], 50);
        assert_eq!(entries(&scratch), [] as [PathBuf; 0]);
    }

    /// A9: what makes an overlay bad, to the byte or by what it means.
    #[rstest]
    #[case::good(None, 0o600, true)]
    #[case::magic(Some(0), 0o600, false)]
    #[case::size(Some(24), 0o600, false)]
    #[case::extended_l2(Some(79), 0o600, false)]
    #[case::lazy_refcounts(Some(87), 0o600, false)]
    #[case::backing_format(Some(120), 0o600, false)]
    #[case::mode(None, 0o644, false)]
    #[test_attr(apply(case))]
    fn a9_a_bad_overlay_is_seen(
        scratch: Scratch,
        #[case] changed: Option<usize>,
        #[case] mode: u32,
        #[case] good: bool,
        #[values(false, true)] exact: bool,
    ) {
        let overlay =
            |base: &str| Overlay::new(base.as_ref(), Format::Qcow2, 1 << 30, Profile::Qemu);
        let expected = overlay("/images/base.qcow2").expect("a layout");
        let (path, mut bytes) = (scratch.join("overlay"), ground::content(&expected));
        if let Some(at) = changed {
            bytes[at] ^= 0x11;
        }
        fs::write(&path, bytes).expect("a file");
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        let made = [path];
        assert_eq!(ground::check(&made, &expected, exact, false).is_ok(), good);
        let other = overlay("/images/other").expect("a layout");
        ground::check(&made, &other, exact, false).expect_err("another base");
    }
}
