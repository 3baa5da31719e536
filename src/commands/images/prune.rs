//! `images prune`: base images that nobody needs.

use std::fmt::Write;
use std::path::PathBuf;

use indicatif::BinaryBytes;
use overlay_pool::images::{ImageRef, Reason};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::in_use::in_use;
use super::super::{Answer, arguments, text};
use super::registries::StoreDir;

const EXAMPLES: &str = "\
Images that have no name go, since their tags have moved on, and what broken-off pulls left. With
--max-size, those that were used longest ago go too, until the others fit. An image stays if a qcow2
file refers to it that is below the pools' directory, the directories of servers that have used this
store, or --targets; or if it is the base image of a disk with an id of such a server. Guest images are
never touched.

Examples:
  overlay-pool images prune --dry-run
  overlay-pool images prune --targets /var/lib/vms/run --max-size 100G";

/// Remove base images of registries that nothing uses.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Prune {
    #[command(flatten)]
    store: StoreDir,
    /// Where disks are whose base images stay, beside `OVERLAY_POOL_DIR` or the user's own place for
    /// pools. Can be given again.
    #[arg(long, value_name = "DIR")]
    targets: Vec<PathBuf>,
    /// How much the images may take, as in 100G. By default any.
    #[arg(long, value_name = "SIZE", value_parser = arguments::size)]
    max_size: Option<u64>,
    /// Only list them.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let store = self.store.open()?;
        let mut directories = self.targets;
        directories.push(arguments::pool_dir());
        let in_use = || in_use(&store, &directories);
        let pruned = store.prune(self.max_size, in_use, true, self.dry_run)?;
        if self.json {
            let fact = |pruned: &overlay_pool::images::Pruned| {
                let names: Vec<_> = pruned.image.names.iter().map(ImageRef::to_string).collect();
                json!({
                    "digest": pruned.image.digest.to_string(), "size": pruned.image.size,
                    "names": names, "reason": reason(pruned.reason),
                })
            };
            let facts = json!({
                "store": text::path_json(store.path()), "dry_run": self.dry_run,
                "removed": pruned.iter().map(fact).collect::<Value>(),
            });
            return Ok(Answer::json(facts, Vec::new()));
        }
        let did = if self.dry_run { "would remove" } else { "removed" };
        let mut shown = String::new();
        for pruned in pruned {
            let names: Vec<_> = pruned.image.names.iter().map(ImageRef::to_string).collect();
            let size = BinaryBytes(pruned.image.size);
            let why = reason(pruned.reason);
            let names = names.join(", ");
            let _ = writeln!(shown, "{did} {} ({size}, {why}) {names}", pruned.image.digest);
        }
        if shown.is_empty() {
            shown = format!("nothing to remove in {}\n", text::escaped_path(store.path()));
        }
        Ok(Answer::from(shown))
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unnamed => "unnamed",
        Reason::Unused => "unused",
    }
}
