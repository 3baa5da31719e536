//! `gc`: what dead owners left.

use std::fmt::Write;
use std::path::Path;

use overlay_pool::api;
use overlay_pool::place::{Leftover, PlaceError, Sweep, sweep};
use overlay_pool::vm::{self, VmSettings};
use serde_json::json;

use super::arguments::PoolDir;
use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, text};

const EXAMPLES: &str = "\
Only directories that a pool, a server or a VM made, and whose owner is dead, are removed, and
states of VMs that were half saved, and cgroups of VMs: a live owner holds a lock. Each does the same for its kind when
it starts.

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
    /// Print one JSON object: what was removed, or would be, and what failed.
    #[arg(long)]
    json: bool,
}

fn not_removed(error: PlaceError) -> Failure {
    Failure::new(Exit::Failed, error, "remove it by hand")
}

/// What dead owners of any kind left: pools, servers, VMs, states of VMs and their cgroups.
pub(super) fn leftovers(dir: &Path, what: Sweep) -> Result<Vec<Leftover>, PlaceError> {
    let mut all = Vec::new();
    for prefix in [overlay_pool::PREFIX, api::PREFIX, vm::PREFIX] {
        all.append(&mut sweep(dir, prefix, what)?);
    }
    // A setting that can't be used doesn't move them.
    let settings = VmSettings::from_env_in(dir.to_owned()).unwrap_or_default();
    let states = VmSettings { dir: dir.to_owned(), ..settings }.states();
    all.append(&mut sweep(&states, vm::DRAFT_PREFIX, what)?);
    all.append(&mut vm::sweep_cgroups(what));
    Ok(all)
}

impl Gc {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let (what, did) =
            if self.dry_run { (Sweep::Look, "would remove") } else { (Sweep::Remove, "removed") };
        let dir = self.dir.path();
        let is_there = dir.symlink_metadata().is_ok();
        let leftovers = leftovers(&dir, what)?;
        let mut answer = Answer::default();
        let mut swept = Vec::new();
        let shown = text::escaped_path(&dir);
        if leftovers.is_empty() && is_there {
            answer.text = format!("nothing left over in {shown}\n");
        } else if leftovers.is_empty() {
            answer.text = format!("{shown} isn't there: nothing to remove\n");
        }
        for leftover in leftovers {
            let path = leftover.path;
            match leftover.error {
                None => {
                    let _ = writeln!(answer.text, "{did} {}", text::escaped_path(&path));
                    swept.push(text::path_json(&path));
                }
                Some(source) => answer.failures.push(not_removed(PlaceError { path, source })),
            }
        }
        if self.json {
            let facts = json!({
                "directory": text::path_json(&dir), "exists": is_there, "dry_run": self.dry_run,
                "removed": swept,
            });
            return Ok(Answer::json(facts, answer.failures));
        }
        Ok(answer)
    }
}
