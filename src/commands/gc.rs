//! `gc`: what dead owners left.

use std::fmt::Write;

use overlay_pool::vm::{VmSettings, sweep_states};
use overlay_pool::{PoolDirError, Sweep, sweep};

use super::arguments::PoolDir;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, text};

const EXAMPLES: &str = "\
Only directories that a pool or a VM made and whose owner is dead are removed, and states of VMs
that were half saved; a live owner holds a lock on its own. Pools and VMs do the same when they
start.

Examples:
  overlay-pool gc --dry-run
  overlay-pool gc --dir /var/lib/vms/pool";

/// Remove the pool directories that dead owners left.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Gc {
    /// Only list them.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    dir: PoolDir,
}

fn not_removed(error: PoolDirError) -> Failure {
    Failure::new(Exit::Failed, error, "remove it by hand")
}

impl Gc {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let (what, did) =
            if self.dry_run { (Sweep::Look, "would remove") } else { (Sweep::Remove, "removed") };
        let dir = self.dir.path();
        let mut leftovers = sweep(&dir, what)?;
        let settings = VmSettings::from_env()
            .map_err(|error| Failure::new(Exit::Usage, error, "or unset it"))?;
        let states = VmSettings { dir: dir.clone(), ..settings }.states();
        let drafts = sweep_states(&states, what);
        leftovers.extend(drafts.map_err(|source| PoolDirError { path: states, source })?);
        let mut answer = Answer::default();
        if leftovers.is_empty() {
            answer.text = format!("nothing left over in {}\n", text::escaped_path(&dir));
        }
        for leftover in leftovers {
            let path = leftover.path;
            match leftover.error {
                None => {
                    let _ = writeln!(answer.text, "{did} {}", text::escaped_path(&path));
                }
                Some(source) => answer.failures.push(not_removed(PoolDirError { path, source })),
            }
        }
        Ok(answer)
    }
}
