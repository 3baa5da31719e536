//! `overlay-pool shim`: lets the conformance suite drive this pool.
//!
//! The protocol stands in `tests/conformance/SHIM.md`: one JSON object a line in, one a line out.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, Format};
use overlay_pool::{Acquired, Error, OverlayPool, PoolConfig, api, paths};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::AbortHandle;

use super::arguments;
use super::exit::Exit;
use super::failure::Failure;

/// The version of the protocol; it changes when an old shim would misunderstand the suite.
const PROTOCOL: u32 = 1;

/// Drive the pool by JSON lines on the standard input, for the conformance suite.
#[derive(Debug, clap::Args)]
pub(super) struct Shim {
    /// How overlays are made.
    #[arg(long, value_name = "CREATOR", default_value = "native",
          value_parser = arguments::creator())]
    creator: CreatorKind,
}

impl Shim {
    pub(super) fn run(self) -> Result<super::Answer, Failure> {
        // Of several threads, so that concurrent acquires do race.
        let served = tokio::runtime::Runtime::new()
            .and_then(|runtime| runtime.block_on(serve(self.creator)));
        let failed = |error| Failure::new(Exit::Failed, error, "see tests/conformance/SHIM.md");
        served.map(|()| super::Answer::default()).map_err(failed)
    }
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    #[serde(flatten)]
    request: Request,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Request {
    Hello {},
    New {
        config: Config,
    },
    Start {
        bases: Option<Vec<Base>>,
    },
    Acquire {
        base: Base,
        target: PathBuf,
        virtual_size: Option<u64>,
    },
    /// Cancels the request with this id, if it isn't answered yet.
    Cancel {
        request: u64,
    },
    Stats {},
    Stop {},
    Chdir {
        path: PathBuf,
    },
    Exit {},
}

/// What the suite sets; the rest are defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    max_concurrent_vms: i64,
    images_path: PathBuf,
    pool_dir: PathBuf,
    restock_interval_ms: u64,
    create_timeout_ms: u64,
    shelf_idle_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    path: PathBuf,
    format: Format,
}

impl From<Base> for BaseRef {
    fn from(Base { path, format }: Base) -> Self {
        Self { path, format }
    }
}

/// What goes into an answer: what was asked for, or the name of an error and its message.
type Answer = Result<Value, (&'static str, String)>;

fn named(error: &Error) -> (&'static str, String) {
    (error.name(), error.to_string())
}

/// Answers requests until the input ends or asks to exit, and stops the pool.
///
/// # Errors
///
/// Those of reading the standard input.
async fn serve(creator: CreatorKind) -> io::Result<()> {
    let mut server = Server { creator, pool: None, running: HashMap::new() };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line) {
            Ok(Line { id, request: Request::Exit {} }) => {
                server.stop().await;
                print(Some(id), Ok(json!({})));
                return Ok(());
            }
            Ok(Line { id, request }) => server.serve(id, request),
            Err(error) => print(None, Err(("bad-request", format!("{error}: {line}")))),
        }
    }
    server.stop().await;
    Ok(())
}

struct Server {
    creator: CreatorKind,
    pool: Option<Arc<OverlayPool>>,
    /// Requests that aren't answered yet.
    running: HashMap<u64, AbortHandle>,
}

impl Server {
    async fn stop(&self) {
        if let Some(pool) = &self.pool {
            pool.stop().await;
        }
    }

    /// Answers a request: at once, or from a task of its own.
    fn serve(&mut self, id: u64, request: Request) {
        let answer = match request {
            Request::Hello {} => {
                let [name, version] = [env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")];
                Ok(json!({ "protocol": PROTOCOL, "name": name, "version": version }))
            }
            Request::New { config } => self.new_pool(config),
            Request::Cancel { request } => {
                if let Some(task) = self.running.get(&request) {
                    task.abort();
                }
                Ok(json!({}))
            }
            Request::Chdir { path } => match std::env::set_current_dir(&path) {
                Ok(()) => Ok(json!({})),
                Err(error) => Err(("bad-request", format!("{}: {error}", path.display()))),
            },
            on_pool => match self.pool.clone() {
                Some(pool) => return self.spawn(id, serve_from(pool, on_pool)),
                None => Err(("bad-request", "there is no pool: send new first".to_owned())),
            },
        };
        print(Some(id), answer);
    }

    fn new_pool(&mut self, config: Config) -> Answer {
        let pool = OverlayPool::new(PoolConfig {
            max_concurrent_vms: config.max_concurrent_vms,
            images_path: config.images_path,
            pool_dir: config.pool_dir,
            restock_interval: Duration::from_millis(config.restock_interval_ms),
            create_timeout: Duration::from_millis(config.create_timeout_ms),
            shelf_idle: config.shelf_idle_ms.map(Duration::from_millis),
            creator: self.creator,
            ..PoolConfig::default()
        })
        .map_err(|error| named(&error))?;
        let answer = json!({ "pool_size": pool.config().pool_size() });
        self.pool = Some(Arc::new(pool));
        Ok(answer)
    }

    fn spawn(&mut self, id: u64, work: impl Future<Output = Answer> + Send + 'static) {
        let task = tokio::spawn(work);
        self.running.retain(|_, task| !task.is_finished());
        self.running.insert(id, task.abort_handle());
        tokio::spawn(async move {
            let answer = match task.await {
                Ok(answer) => answer,
                Err(error) if error.is_cancelled() => {
                    Err(("cancelled", "cancelled by a request".to_owned()))
                }
                Err(error) => Err(("panic", error.to_string())),
            };
            print(Some(id), answer);
        });
    }
}

async fn serve_from(pool: Arc<OverlayPool>, request: Request) -> Answer {
    let result = match request {
        Request::Start { bases } => {
            let bases = bases.map(|bases| bases.into_iter().map(BaseRef::from).collect());
            pool.start(bases).await.map(|()| json!({}))
        }
        Request::Acquire { base, target, virtual_size } => {
            let acquired = match virtual_size {
                Some(size) => pool.acquire_sized(base, target, size).await,
                None => pool.acquire(base, target).await,
            };
            acquired.map(handed_over)
        }
        Request::Stop {} => {
            pool.stop().await;
            Ok(json!({}))
        }
        // What isn't served here was served before.
        _ => Ok(json!(api::Stats::from(pool.stats()))),
    };
    result.map_err(|error| named(&error))
}

fn handed_over(Acquired { source, base, target }: Acquired) -> Value {
    let [base, target] = [base, target].map(|path| paths::text(&path, str::to_owned));
    json!({ "source": api::Source::from(source), "base": base, "target": target })
}

/// Prints one answer as one line.
fn print(id: Option<u64>, answer: Answer) {
    let line = match answer {
        Ok(value) => json!({ "id": id, "ok": value }),
        Err((name, message)) => json!({ "id": id, "error": { "name": name, "message": message } }),
    };
    // Whoever closed the other end ends the input too.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
