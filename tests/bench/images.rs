//! A pull from a registry on this host, beside `cp` and `sha256sum` of the same file.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::figures::{Figures, Row, percentile};
use super::{Bench, Error, Ground, Measured, Options};

/// How long a registry may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measure pulls of a large image from a registry (docker-registry).
#[derive(Debug, Parser)]
pub(super) struct Images {
    #[command(flatten)]
    options: Options,
    /// How large the image is, in MB.
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    size: u32,
    /// How often it is pulled.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

const PULL: &str = "pull";
const COPY: &str = "cp, sha256sum";

impl Bench for Images {
    const ROWS: &[Row] = &[
        ("megabytes", "size, MB", None),
        ("seconds", "p50, s", None),
        ("megabytes_per_second", "MB a second", None),
        ("share", "speed ÷ that of cp, sha256sum", Some((PULL, '≥', 0.6))),
    ];

    fn options(&self) -> &Options {
        &self.options
    }

    async fn measure(self, ground: Ground) -> Result<Measured, Error> {
        ground.progress("the image");
        let file = ground.dir.join("image.raw");
        write_image(&file, self.size)?;
        let registry = Registry::start(&ground.folder("registry")?).await?;
        let image = format!("{}/bench/image:1", registry.address);
        done(program(&ground).args(["push", "--raw"]).arg(&file).arg(&image)).await?;

        let (mut pulls, mut copies, mut sound) = (Vec::new(), Vec::new(), 0);
        for round in 1..=self.rounds {
            ground.progress(format!("{round} of {}", self.rounds));
            let copy = ground.dir.join("copy");
            let (took, digest) = timed(async {
                done(Command::new("cp").arg(&file).arg(&copy)).await?;
                done(Command::new("sha256sum").arg(&copy)).await
            })
            .await?;
            copies.push(took);
            std::fs::remove_file(copy)?;
            let (took, _) =
                timed(done(program(&ground).args(["pull", "--raw"]).arg(&image))).await?;
            pulls.push(took);
            let digest = digest.split(' ').next().unwrap_or_default();
            let pulled = store(&ground).join("sha256").join(digest);
            if pulled.metadata()?.len() != file.metadata()?.len() {
                return Err("what was pulled has another length".into());
            }
            sound += 1;
            std::fs::remove_dir_all(store(&ground))?;
        }
        drop(registry);
        let size = f64::from(self.size);
        let figures = |took: Vec<Duration>| {
            let mut figures = Figures::default();
            let seconds = percentile(took, 50).map(|micros| micros / 1e6);
            figures.set("megabytes", size);
            figures.set("seconds", seconds);
            figures.set("megabytes_per_second", seconds.map(|seconds| size / seconds));
            figures
        };
        let (mut pull, copy) = (figures(pulls), figures(copies));
        let speed = |figures: &Figures| figures.0.get("megabytes_per_second").copied();
        let share = speed(&pull).zip(speed(&copy)).map(|(pull, copy)| pull / copy);
        pull.set("share", share);
        Ok(Measured {
            what: format!("An image of {} MB is pulled from a registry on this host.", self.size),
            columns: [(PULL, pull), (COPY, copy)].into(),
            sound,
            unless: ground.not_a_disk(),
        })
    }
}

/// A raw image of bytes that can't be packed.
fn write_image(to: &Path, megabytes: u32) -> Result<(), Error> {
    let mut file = File::create(to)?;
    let mut left = usize::try_from(megabytes)? * 1_000_000;
    let mut random = StdRng::seed_from_u64(1);
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        random.fill_bytes(&mut block);
        let count = left.min(block.len());
        file.write_all(&block[..count])?;
        left -= count;
    }
    Ok(())
}

fn store(ground: &Ground) -> PathBuf {
    ground.dir.join("store")
}

/// `overlay-pool images`, to be given the rest.
fn program(ground: &Ground) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlay-pool"));
    command.arg("images").env("OVERLAY_POOL_STORE", store(ground));
    command
}

/// Runs a program to its end; gives what it said.
async fn done(command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.as_std().get_program().display();
    Err(format!("{program}: {}", said.trim()).into())
}

/// Times some work that begins with nothing to be written to the disk.
async fn timed<T>(work: impl Future<Output = Result<T, Error>>) -> Result<(Duration, T), Error> {
    rustix::fs::sync();
    let begin = Instant::now();
    let result = work.await?;
    Ok((begin.elapsed(), result))
}

/// A registry's process. Dropped, it is killed.
struct Registry {
    address: String,
    _child: Child,
}

impl Registry {
    async fn start(folder: &Path) -> Result<Self, Error> {
        let (config, log) = (folder.join("config.yml"), folder.join("log"));
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\n",
            folder.display()
        );
        std::fs::write(&config, text)?;
        // Where `fixtures/provision.sh` unpacks it, or else on `PATH`.
        let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("registry");
        let unpacked = unpacked.join("docker-registry");
        let program = if unpacked.exists() { unpacked } else { "docker-registry".into() };
        let mut command = Command::new(&program);
        command.arg("serve").arg(&config).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let failed = |error| format!("{}: {error}; fixtures/provision.sh", program.display());
        let child = command.spawn().map_err(failed)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let said = std::fs::read_to_string(&log)?;
            let address = said.split("listening on ").nth(1);
            if let Some((address, _)) = address.and_then(|rest| rest.split_once('"')) {
                return Ok(Self { address: address.to_owned(), _child: child });
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err("the registry never listens".into())
    }
}
