//! Code in VMs: from asking to the first line of its output, by each way that there is.

mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use overlay_pool::vm::{
    Accelerator, End, Language, Program, Start, Stream, VmError, VmManager, VmSettings,
};
use tokio::io::empty;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use super::figures::{Figures, Row, percentile};
use super::{Bench, Error, Ground, Measured, Options, float};
use server::Server;

/// What is measured, by the names of the columns.
const LANGUAGES: [(&str, Language); 2] =
    [("python", Language::PYTHON), ("node", Language::JAVASCRIPT)];
const HELLO: &str = "hello from pool";
/// How long a VM that waits may take to be made.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(20);
/// What the machine is left alone for before a VM that waits is asked for.
const QUIET: Duration = Duration::from_millis(500);

/// Measure code in VMs, from asking to the first line of its output: VMs that boot, that are
/// resumed and that waited, in turns.
#[derive(Debug, Parser)]
pub(super) struct Vms {
    #[command(flatten)]
    options: Options,
    /// How many VMs of each kind.
    #[arg(long, value_name = "N", default_value_t = 20)]
    count: usize,
    /// How many VMs wait while their memory is measured; 0 measures none.
    #[arg(long, value_name = "N", default_value_t = 10)]
    waiting: u32,
    /// For how many seconds VMs are asked for once a second, and then ten times a second; 0 asks
    /// for none.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: usize,
    /// One language alone instead of both. What is asked for once and ten times a second is Python in any
    /// case.
    #[arg(long, value_name = "NAME", value_parser = LANGUAGES.map(|(name, _)| name))]
    language: Option<String>,
    /// What runs the VMs' instructions: auto, kvm or tcg. `OVERLAY_POOL_ACCEL`, or else auto: KVM
    /// if it is usable, never TCG.
    #[arg(long)]
    accel: Option<Accelerator>,
}

impl Bench for Vms {
    const AT_TOP: bool = true;
    const ROWS: &[Row] = &[
        ("vms", "VMs of each kind", None),
        ("boot_ms", "ask to first line: booted, ms", None),
        ("miss_ms", "  resumed, ms", None),
        ("boot_by_miss", "    boot ÷ resumed", Some(("python", '≥', 3.5))),
        ("boot_by_miss", "    boot ÷ resumed", Some(("node", '≥', 1.8))),
        ("overlay_ms", "    of it: overlay, ms", None),
        ("spawn_ms", "    of it: QEMU's start, ms", None),
        ("load_ms", "    of it: loading the state, ms", None),
        ("renew_ms", "    of it: renewal, ms", None),
        ("warm_ms", "  waited, ms", Some(("python", '≤', 30.0))),
        ("warm_ms", "  waited, ms", Some(("node", '≤', 60.0))),
        ("boot_by_warm", "    boot ÷ waited", Some(("python", '≥', 100.0))),
        ("boot_by_warm", "    boot ÷ waited", Some(("node", '≥', 100.0))),
        ("exec_ms", "overlay-pool exec, no server, ms", None),
        ("exec_server_ms", "  with a server, waited, ms", Some(("python", '≤', 50.0))),
        ("http_ms", "POST /v1/execute to first line, waited, ms", Some(("python", '≤', 40.0))),
        ("pss_mib", "memory of each that waits, MiB", Some(("python", '≤', 80.0))),
        ("asks_at_1", "python, four wait: asks, 1 a second", None),
        ("misses_at_1", "  of them: none waited", Some(("load", '≤', 0.0))),
        ("failures_at_1", "  of them: failed", Some(("load", '≤', 0.0))),
        ("first_line_at_1_ms", "  to first line, ms", None),
        ("asks_at_10", "asks, 10 a second", None),
        ("misses_at_10", "  of them: none waited", None),
        ("refused_at_10", "  of them: refused, too many", None),
        ("failures_at_10", "  of them: failed", Some(("load", '≤', 0.0))),
        ("first_line_at_10_ms", "  to first line, ms", None),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        let settings = VmSettings::from_env()?;
        let settings = VmSettings {
            dir: ground.folder("vms")?,
            states_dir: Some(ground.folder("states")?),
            max_concurrent_vms: self.waiting.max(1) + 2,
            accelerator: self.accel.unwrap_or(settings.accelerator),
            warm: BTreeMap::new(),
            ..settings
        };
        let accelerator = settings.accelerator.resolve()?;
        let mut columns = BTreeMap::new();
        for (name, language) in LANGUAGES {
            if self.language.as_ref().is_some_and(|only| only != name) {
                continue;
            }
            ground.progress(format!("{name}: saving a state"));
            columns.insert(name, self.language(&ground, &settings, language).await?);
        }
        if self.seconds > 0 {
            columns.insert("load", self.load(&ground, &settings).await?);
        }
        Ok(Measured {
            what: format!(
                "Code in VMs, from asking to its first line, in turns, medians, {accelerator}."
            ),
            columns,
            ..Measured::default()
        })
    }
}

impl Vms {
    async fn language(
        &self,
        ground: &Ground,
        settings: &VmSettings,
        language: Language,
    ) -> Result<Figures, Error> {
        let booting = VmManager::new(VmSettings { resume: false, ..settings.clone() });
        let missing = VmManager::new(settings.clone());
        let warm = BTreeMap::from([(language, 1)]);
        let waiting = VmManager::new(VmSettings { warm, ..settings.clone() });
        for manager in [&booting, &missing, &waiting] {
            manager.start_for(language).await?;
        }
        let (mut boots, mut misses, mut warms) = (Vec::new(), Vec::new(), Vec::new());
        let mut parts = <[Vec<Duration>; 4]>::default();
        ask(&missing, language, Some(Start::Resumed)).await?;
        for round in 1..=self.count {
            ground.progress(format!("{language}: {round} of {}", self.count));
            boots.push(ask(&booting, language, Some(Start::Booted)).await?.first_line);
            let miss = ask(&missing, language, Some(Start::Resumed)).await?;
            misses.push(miss.first_line);
            parts.iter_mut().zip(miss.parts).for_each(|(all, part)| all.push(part));
            wait_for(&waiting, language, 1).await?;
            sleep(QUIET).await;
            warms.push(ask(&waiting, language, Some(Start::Warm)).await?.first_line);
        }
        for manager in [booting, missing, waiting] {
            manager.stop().await;
        }
        let mut figures = Figures::default();
        let median = |samples: Vec<Duration>| percentile(samples, 50).map(|us| us / 1000.0);
        figures.set("vms", float(self.count));
        let samples = [("boot_ms", boots), ("miss_ms", misses), ("warm_ms", warms)];
        let names = ["overlay_ms", "spawn_ms", "load_ms", "renew_ms"];
        for (name, samples) in samples.into_iter().chain(names.into_iter().zip(parts)) {
            figures.set(name, median(samples));
        }
        figures.divide("boot_by_miss", "boot_ms", "miss_ms");
        figures.divide("boot_by_warm", "boot_ms", "warm_ms");
        ground.progress(format!("{language}: overlay-pool exec"));
        let run = |_| exec(language, |command| of_settings(command, settings));
        let runs: Result<Vec<_>, _> = (0..self.count).map(run).collect();
        figures.set("exec_ms", median(runs?));
        ground.progress(format!("{language}: a server"));
        let [runs, lines] = self.served(ground, settings, language).await?;
        figures.set("exec_server_ms", median(runs));
        figures.set("http_ms", median(lines));
        if self.waiting > 0 {
            ground.progress(format!("{language}: memory"));
            figures.set("pss_mib", self.memory(settings, language).await?);
        }
        Ok(figures)
    }

    /// Whole processes that use a server's VM, and first lines by HTTP, in turns.
    async fn served(
        &self,
        ground: &Ground,
        settings: &VmSettings,
        language: Language,
    ) -> Result<[Vec<Duration>; 2], Error> {
        let mut server =
            Server::start(&ground.folder(&format!("server-{language}"))?, settings, language)?;
        let (mut runs, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..self.count {
            server.ready().await?;
            runs.push(exec(language, |command| {
                command.arg("--socket").arg(&server.socket);
            })?);
            server.ready().await?;
            lines.push(server.first_line().await?);
        }
        server.stop().await?;
        Ok([runs, lines])
    }

    /// The memory of each VM that waits, in MiB, what they share divided among them.
    async fn memory(&self, settings: &VmSettings, language: Language) -> Result<f64, Error> {
        let warm = BTreeMap::from([(language, self.waiting)]);
        let manager = VmManager::new(VmSettings { warm, ..settings.clone() });
        manager.start_for(language).await?;
        let waiting = usize::try_from(self.waiting)?;
        wait_for(&manager, language, waiting).await?;
        let qemus = qemus()?;
        let kib: Result<u64, Error> = qemus.iter().map(|process| pss_kib(process)).sum();
        manager.stop().await;
        if qemus.len() != waiting {
            return Err(format!("{} QEMUs run instead of {waiting}", qemus.len()).into());
        }
        Ok(float(usize::try_from(kib?)?) / 1024.0 / float(waiting))
    }
}

impl Vms {
    /// Asks that come however many are under way, while four VMs wait at most.
    async fn load(&self, ground: &Ground, settings: &VmSettings) -> Result<Figures, Error> {
        let warm = BTreeMap::from([(Language::PYTHON, 4)]);
        let settings = VmSettings { warm, max_concurrent_vms: 12, ..settings.clone() };
        let manager = Arc::new(VmManager::new(settings));
        manager.start_for(Language::PYTHON).await?;
        let mut figures = Figures::default();
        for rate in [1, 10] {
            ground.progress(format!("load: {rate} a second"));
            wait_for(&manager, Language::PYTHON, 4).await?;
            let misses = manager.warm_stats(Language::PYTHON).misses;
            let (mut asks, mut lines) = (JoinSet::new(), Vec::new());
            let mut tick = interval(Duration::from_secs(1) / u32::try_from(rate)?);
            for _ in 0..rate * self.seconds {
                tick.tick().await;
                let manager = Arc::clone(&manager);
                asks.spawn(async move { ask(&manager, Language::PYTHON, None).await });
            }
            let (mut refused, mut failed) = (0, 0);
            while let Some(asked) = asks.join_next().await {
                match asked? {
                    Ok(asked) => lines.push(asked.first_line),
                    Err(error) => match error.downcast_ref() {
                        Some(VmError::TooMany { .. }) => refused += 1,
                        _ => failed += 1,
                    },
                }
            }
            let misses = manager.warm_stats(Language::PYTHON).misses - misses;
            figures.set(format!("asks_at_{rate}"), float(rate * self.seconds));
            figures.set(format!("misses_at_{rate}"), float(usize::try_from(misses)?));
            figures.set(format!("refused_at_{rate}"), float(refused));
            figures.set(format!("failures_at_{rate}"), float(failed));
            let median = percentile(lines, 50).map(|us| us / 1000.0);
            figures.set(format!("first_line_at_{rate}_ms"), median);
        }
        manager.stop().await;
        Ok(figures)
    }
}

struct Asked {
    first_line: Duration,
    /// Of the creation: overlay, spawn, boot or loading, renewal.
    parts: [Duration; 4],
}

/// One VM, from asking for it until the first line of its code's output.
async fn ask(
    manager: &VmManager,
    language: Language,
    start: Option<Start>,
) -> Result<Asked, Error> {
    let begin = Instant::now();
    let vm = manager.create_vm(language, "bench", "vm").await?;
    let program = Program::new(hello(language));
    let (sender, mut parts) = mpsc::channel(4);
    let (outcome, (first_line, said)) = tokio::join!(vm.run(&program, empty(), sender), async {
        let (mut first, mut said) = (None, Vec::new());
        while let Some((stream, part)) = parts.recv().await {
            first.get_or_insert_with(|| begin.elapsed());
            if stream == Stream::Stdout {
                said.extend(part);
            }
        }
        (first, said)
    });
    let (outcome, phases) = (outcome?, vm.phases());
    // What was measured must be what it is said to be.
    if start.is_some() && vm.start() != start {
        return Err(format!("a VM was {:?} instead of {start:?}", vm.start()).into());
    }
    if outcome.end != End::Code(0) || said != format!("{HELLO}\n").into_bytes() {
        return Err(format!("hello ended with {:?}", outcome.end).into());
    }
    manager.destroy_vm(&vm).await;
    let first_line = first_line.ok_or("no output came")?;
    Ok(Asked { first_line, parts: [phases.overlay, phases.spawn, phases.boot, phases.renew] })
}

fn hello(language: Language) -> String {
    match language {
        Language::JAVASCRIPT => format!("console.log('{HELLO}')"),
        _ => format!("print('{HELLO}')"),
    }
}

async fn wait_for(manager: &VmManager, language: Language, ready: usize) -> Result<(), Error> {
    let begin = Instant::now();
    while manager.warm_stats(language).ready < ready {
        if begin.elapsed() > PATIENCE {
            return Err(format!("no {ready} VMs wait after {PATIENCE:?}").into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// A whole process of the program, from its start to its end.
fn exec(language: Language, set: impl Fn(&mut Command)) -> Result<Duration, Error> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-pool"));
    command.args(["exec", language.as_str(), "-c", &hello(language)]).stdin(Stdio::null());
    set(&mut command);
    let begin = Instant::now();
    let output = command.output()?;
    let took = begin.elapsed();
    if output.stdout != format!("{HELLO}\n").into_bytes() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(took)
}

/// Has a command make VMs as the settings say.
fn of_settings(command: &mut Command, settings: &VmSettings) {
    command.args(["--accel", settings.accelerator.as_str()]);
    command.env("OVERLAY_POOL_DIR", &settings.dir);
    command.env("OVERLAY_POOL_STATES", settings.states());
    command.env("OVERLAY_POOL_IMAGES", &settings.base_images_dir);
}

/// The folders in `/proc` of the processes that this one has started.
fn qemus() -> Result<Vec<PathBuf>, Error> {
    let ours = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in Path::new("/proc").read_dir()? {
        let path = entry?.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // The program's name may hold anything; state and parent follow.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if path.join("smaps_rollup").exists() && parent == Some(&ours) && !path.ends_with("self") {
            found.push(path);
        }
    }
    Ok(found)
}

fn pss_kib(process: &Path) -> Result<u64, Error> {
    let rollup = std::fs::read_to_string(process.join("smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| "no Pss in it".into())
}
