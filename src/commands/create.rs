//! `create`: overlays at given targets, as `qemu-img create -b` makes them.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use overlay_pool::creator::CreatorKind;
use overlay_pool::image::{BaseRef, Kind, OverlayOptions, Profile, References, read_start};
use overlay_pool::{Error, OverlayPool, PoolConfig};

use super::failure::Failure;
use super::{Answer, arguments, block_on};

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
  overlay-pool create --size 20G --profile portable base.qcow2 vm.qcow2
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
    /// The size of the guest's disk, as in 20G: the base image's by default, and never smaller.
    #[arg(long, value_parser = arguments::size)]
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
}

impl Create {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        block_on(self.make())?
    }

    async fn make(self) -> Result<Answer, Failure> {
        let pool = OverlayPool::new(PoolConfig {
            max_concurrent_vms: 0, // nothing is made ahead
            creator: self.creator,
            overlay: OverlayOptions { profile: self.profile, virtual_size: self.size },
            references: if self.allow_references { References::Allow } else { References::Deny },
            ..PoolConfig::default()
        })?;
        let warnings = self.raw.then(|| doubt(&self.base)).flatten();
        let base = if self.raw { BaseRef::raw(self.base) } else { BaseRef::qcow2(self.base) };
        pool.start(Some(Vec::new())).await?;
        let made: Vec<Result<_, Error>> = stream::iter(self.targets)
            .map(|target| pool.acquire(base.clone(), target))
            .buffered(AT_ONCE)
            .collect()
            .await;
        pool.stop().await;

        let failures = made.into_iter().filter_map(Result::err).map(Failure::from);
        let mut answer = Answer {
            warnings: warnings.into_iter().collect(),
            failures: failures.collect(),
            ..Answer::default()
        };
        answer.failures.dedup(); // a bad base image is one failure, whatever the targets
        Ok(answer)
    }
}

/// Why a base image that is declared as raw may be something else. What can't be read is said when
/// the overlays are made.
fn doubt(base: &Path) -> Option<String> {
    let (start, _) = read_start(base).ok()?;
    let kind = Kind::of(&start)?;
    Some(format!("base image {}: declared as raw, but it is {kind}", base.display()))
}
