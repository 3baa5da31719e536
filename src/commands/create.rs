//! `create`: overlays at given targets, as `qemu-img create -b` makes them.

use std::path::{Path, PathBuf};
use std::pin::pin;

use futures_util::{StreamExt, stream};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, Kind, OverlayOptions, Profile, References, read_start};
use overlay_pool::{OverlayPool, PoolConfig};
use serde_json::json;

use super::exec::interrupted;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, block_on, text};

/// How many overlays are made at once: creators with processes profit, and no more files than
/// that are open.
const AT_ONCE: usize = 8;

const EXAMPLES: &str = "\
If one target fails, the others are still made, and its failure is a line on standard error. A
target that exists is never overwritten, and no partial file is left. An overlay records the
absolute, resolved path of its base image and the format.

Examples:
  overlay-pool create base.qcow2 vm.qcow2
  overlay-pool create base.qcow2 vm-1.qcow2 vm-2.qcow2 vm-3.qcow2
  overlay-pool create --size 20GiB --profile portable base.qcow2 vm.qcow2
  overlay-pool create --raw --creator qemu-img disk.img vm.qcow2";

/// Make overlays of a base image, as `qemu-img create -b` does.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Create {
    /// The base image: qcow2, unless --raw.
    base: PathBuf,
    /// Where the overlays shall be.
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<PathBuf>,
    /// How the overlays are made; all write the same bytes.
    #[arg(long, value_parser = arguments::creator(), default_value = CreatorKind::Native.as_str())]
    creator: CreatorKind,
    /// The size of the guest's disk, as in 20GiB: the base image's by default, and never smaller.
    #[arg(long, value_parser = arguments::size, allow_negative_numbers = true)]
    size: Option<u64>,
    /// Which qcow2 features to use: for QEMU, or for other readers.
    #[arg(long, value_parser = arguments::profile(), default_value = "qemu")]
    profile: Profile,
    /// The base image is raw.
    #[arg(long)]
    raw: bool,
    /// Take a base image that refers to a backing file or an external data file.
    #[arg(long)]
    allow_references: bool,
    /// Print one JSON object: the overlays that were made, and what failed.
    #[arg(long)]
    json: bool,
}

impl Create {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        if let Some(size) = size_among(&self.targets) {
            let cause = format!("{size}: a size is no target here");
            return Err(Failure::new(
                Exit::Usage,
                cause,
                &format!("say --size {size}, or ./{size} for a file of that name"),
            ));
        }
        block_on(self.make())?
    }

    async fn make(self) -> Result<Answer, Failure> {
        let pool = OverlayPool::new(PoolConfig {
            max_concurrent_vms: 0, // nothing is made ahead
            creator: self.creator,
            overlay: OverlayOptions { profile: self.profile, virtual_size: self.size },
            references: if self.allow_references { References::Allow } else { References::Deny },
            // Swept, and not used.
            pool_dir: arguments::pool_dir(),
            ..PoolConfig::default()
        })?;
        let warning = self.raw.then(|| doubt(&self.base)).flatten();
        let base = if self.raw { BaseRef::raw(self.base) } else { BaseRef::qcow2(self.base) };
        pool.start(Some(Vec::new())).await?;
        let (mut made, mut failures) = (Vec::new(), Vec::new());
        {
            let mut acquires = stream::iter(self.targets)
                .map(|target| async {
                    if target.as_os_str().as_encoded_bytes().ends_with(b"/") {
                        let target = target.display();
                        let cause =
                            format!("target {target}: give a path that ends in a file's name");
                        return Err(Failure::new(Exit::Failed, cause, ""));
                    }
                    pool.acquire(base.clone(), target.clone()).await?;
                    Ok(target)
                })
                .buffered(AT_ONCE);
            let mut interrupted = pin!(interrupted());
            loop {
                tokio::select! {
                    next = acquires.next() => match next {
                        Some(Ok(target)) => made.push(text::path_json(&target)),
                        Some(Err(failure)) => failures.push(failure),
                        None => break,
                    },
                    failure = &mut interrupted => {
                        // Those under way are cancelled, and leave nothing.
                        failures.insert(0, failure);
                        break;
                    }
                }
            }
        }
        pool.stop().await;
        failures.dedup(); // a bad base image is one failure, whatever the targets

        let answer = if self.json {
            Answer::json(json!({ "made": made }), failures)
        } else {
            Answer { failures, ..Answer::default() }
        };
        Ok(Answer { warnings: warning.into_iter().collect(), ..answer })
    }
}

/// What comes after the target and reads as the size that `qemu-img create` takes there.
fn size_among(targets: &[PathBuf]) -> Option<&str> {
    let [_, last] = targets else { return None };
    let last = last.to_str()?;
    let has_unit = last.ends_with(|unit: char| unit.is_ascii_alphabetic());
    (has_unit && arguments::size(last).is_ok()).then_some(last)
}

/// Why a base image that is declared as raw may be something else. What can't be read is said when
/// the overlays are made.
fn doubt(base: &Path) -> Option<String> {
    let (start, _) = read_start(base).ok()?;
    let kind = Kind::of(&start)?;
    Some(format!("base image {}: declared as raw, but it is {kind}", base.display()))
}
