//! `images pull`: base images from registries.

use std::fmt::Write;
use std::fs::File;
use std::io;

use indicatif::BinaryBytes;
use overlay_pool::images::{ImageRef, Pulled, Puller};
use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use super::super::exec::interrupted;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::{Answer, block_on, text};
use super::registries::{Kind, Registries, StoreDir, bar};

/// What the allocator maps ahead.
const AHEAD: u64 = 1 << 30;
/// What memory a registry can have this process take beside it.
const MEMORY: u64 = 256 << 20;

const EXAMPLES: &str = "\
An image is an artifact with one layer, the disk, as `images push` or oras makes it, or a container
disk: one with the disk below /disk of a layer, as KubeVirt's are. What comes is hashed while it is
written, and counts only if its digest is right and it can be a base image. A pull that breaks off is
gone on with by the next one.

Credentials are those of podman login and docker login: REGISTRY_AUTH_FILE, or containers/auth.json
in XDG_RUNTIME_DIR or XDG_CONFIG_HOME, or config.json in DOCKER_CONFIG. Proxies are those of
HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

Examples:
  overlay-pool images pull ghcr.io/acme/python:3.13
  overlay-pool images pull \
    ghcr.io/acme/python@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  overlay-pool images pull --mirror ghcr.io=mirror.example.com ghcr.io/acme/python:3.13
  overlay-pool images pull --raw localhost:5000/disk:1";

/// Pull base images from registries, verified by their digests.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Pull {
    /// Which, as in ghcr.io/acme/python:3.13; with @sha256:… that very one.
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    kind: Kind,
    #[command(flatten)]
    store: StoreDir,
    #[command(flatten)]
    registries: Registries,
    /// Give it no name yet; for `serve`.
    #[arg(long, hide = true)]
    unnamed: bool,
    /// End with whoever holds the other end of standard input; for `serve`.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Pull {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let images: Vec<_> =
            self.images.iter().map(|text| self.kind.image(text)).collect::<Result<_, _>>()?;
        limit_memory();
        let store = self.store.open()?;
        let max_size = self.kind.max_size();
        let puller = Puller { store, settings: self.registries.settings(), max_size };
        let (unnamed, json, ends) = (self.unnamed, self.json, self.until_stdin_ends);
        let (pulled, failures) = block_on(async {
            let (mut pulled, mut failures) = (Vec::new(), Vec::new());
            let all = async {
                for image in images {
                    match pull(&puller, &image, unnamed).await {
                        Ok(done) => pulled.push((image, done)),
                        Err(failure) => failures.push(failure),
                    }
                }
            };
            let ended = tokio::select! {
                () = all => None,
                failure = interrupted() => Some(failure),
                failure = stdin_ended(), if ends => Some(failure),
            };
            failures.splice(0..0, ended);
            (pulled, failures)
        })?;
        Ok(answer(&puller, &pulled, failures, json))
    }
}

async fn pull(puller: &Puller, image: &ImageRef, unnamed: bool) -> Result<Pulled, Failure> {
    let (bar, tell) = bar(image);
    let (puller, asked) = (puller.clone(), image.clone());
    // What the client of the protocol doesn't expect is a panic, here of a task alone.
    let mut pulling = JoinSet::new();
    pulling.spawn(async move {
        if unnamed { puller.fetch(&asked, &tell).await } else { puller.pull(&asked, &tell).await }
    });
    let pulled = pulling.join_next().await;
    bar.finish_and_clear();
    if let Some(Ok(pulled)) = pulled {
        return Ok(pulled?);
    }
    let cause = format!("image {image}: the registry's answer isn't understood");
    Err(Failure::new(Exit::Failed, cause, ""))
}

/// Ends the process rather than the machine, if a registry sends without an end where the client
/// of the protocol takes it all.
fn limit_memory() {
    let Rlimit { current, maximum } = getrlimit(Resource::As);
    let most = mapped().unwrap_or(AHEAD) + MEMORY;
    let most = current.map_or(most, |current| current.min(most));
    if let Err(error) = setrlimit(Resource::As, Rlimit { current: Some(most), maximum }) {
        tracing::warn!(%error, "memory has no limit");
    }
}

/// How much address space this process has, in bytes (`proc_pid_statm(5)`).
fn mapped() -> Option<u64> {
    let sizes = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = sizes.split(' ').next()?.parse().ok()?;
    Some(pages * u64::try_from(page_size()).ok()?)
}

async fn stdin_ended() -> Failure {
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("stdin: {error}"), "");
    let opened = File::open("/dev/stdin").and_then(pipe::Receiver::from_file);
    let mut stdin = match opened {
        Ok(stdin) => stdin,
        Err(error) => return failed(error),
    };
    match stdin.read(&mut [0; 1]).await {
        Ok(_) => Failure::new(Exit::Terminated, "nobody waits for it any more", ""),
        Err(error) => failed(error),
    }
}

fn answer(
    puller: &Puller,
    pulled: &[(ImageRef, Pulled)],
    failures: Vec<Failure>,
    as_json: bool,
) -> Answer {
    if as_json {
        let fact = |(image, pulled): &(ImageRef, Pulled)| {
            json!({
                "image": image.to_string(), "digest": pulled.digest.to_string(),
                "name": text::path_json(&puller.store.name(image)),
                "path": text::path_json(&pulled.path), "received": pulled.received,
            })
        };
        let images: Vec<_> = pulled.iter().map(fact).collect();
        return Answer::json(json!({ "images": images }), failures);
    }
    let mut answer = Answer { failures, ..Answer::default() };
    for (image, pulled) in pulled {
        let name = text::escaped_path(&puller.store.name(image));
        let came = match pulled.received {
            0 => "was there".to_owned(),
            bytes => format!("{} received", BinaryBytes(bytes)),
        };
        let _ = writeln!(answer.text, "{name}  {}  {came}", pulled.digest);
    }
    answer
}
