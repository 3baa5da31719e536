//! `acquire`: one overlay from a server's pool.

use std::path::PathBuf;

use overlay_pool::Error;
use overlay_pool::api::{AcquireAnswer, Client, Source};
use overlay_pool::image::BaseRef;

use super::arguments::{self, Socket};
use super::failure::Failure;
use super::{Answer, block_on, text};

const EXAMPLES: &str = "\
Relative paths are those of the working directory. A target that exists is never overwritten, and a
new one appears only when it is complete. The server allows targets and base images in certain
directories, which it names if it refuses one.

Examples:
  overlay-pool acquire /var/lib/vms/images/python-3-base-x86_64.qcow2 disk.qcow2
  overlay-pool acquire --size 20GiB base.qcow2 disk.qcow2
  overlay-pool acquire --raw --socket pool.sock --json disk.img disk.qcow2";

/// Acquire an overlay from the pool of a server.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Acquire {
    /// The base image: qcow2, unless --raw.
    base: PathBuf,
    /// Where the overlay shall be.
    target: PathBuf,
    /// The base image is raw.
    #[arg(long)]
    raw: bool,
    /// The size of the guest's disk, as in 20GiB: the base image's by default, and never smaller.
    #[arg(long, value_parser = arguments::size)]
    size: Option<u64>,
    #[command(flatten)]
    socket: Socket,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

impl Acquire {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        block_on(self.ask())?
    }

    async fn ask(self) -> Result<Answer, Failure> {
        // A server that isn't there must not hide it (rule A1).
        if self.target.symlink_metadata().is_ok() {
            return Err(Error::AlreadyExists { target: self.target }.into());
        }
        let base = if self.raw { BaseRef::raw(self.base) } else { BaseRef::qcow2(self.base) };
        let client = Client::new(self.socket.path()?);
        let acquired = match self.size {
            Some(size) => client.acquire_sized(base, &self.target, size).await?,
            None => client.acquire(base, &self.target).await?,
        };
        Ok(Answer::from(if self.json { json(&acquired) } else { line(&acquired) }))
    }
}

fn json(acquired: &AcquireAnswer) -> String {
    let json = serde_json::to_string(acquired).unwrap_or_default();
    format!("{}\n", text::escaped_json(&json))
}

fn line(acquired: &AcquireAnswer) -> String {
    let source = match acquired.source {
        Source::Pooled => "pooled",
        Source::OnDemand => "on demand",
    };
    format!("{}  {source}, {} µs\n", text::escaped_path(&acquired.target), acquired.took_us)
}
