//! `images`: the guest images, and base images of registries.

mod build;
#[cfg(feature = "images")]
mod ls;
#[cfg(feature = "images")]
mod prune;
#[cfg(feature = "images")]
mod pull;
#[cfg(feature = "images")]
mod push;
mod recipe;
#[cfg(feature = "images")]
mod registries;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use overlay_pool::vm::{FileCheck, ImagesError, Manifest};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, arguments, text};

const EXAMPLES: &str = "\
Every file that the manifest names is read, and its SHA-256 is compared. If one is missing or
different, the exit code is 3.

Examples:
  overlay-pool images
  overlay-pool images build
  overlay-pool images --dir /var/lib/images --json";

/// List and verify the guest images of VMs, or build them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct Images {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where they are; `OVERLAY_POOL_IMAGES`, or else the first of these that has base images: images
    /// and target/guest-images here, and where `images build` puts them.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(build::Build),
    #[cfg(feature = "images")]
    Pull(pull::Pull),
    #[cfg(feature = "images")]
    Ls(ls::Ls),
    #[cfg(feature = "images")]
    Prune(prune::Prune),
    #[cfg(feature = "images")]
    Push(push::Push),
}

impl Images {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        match self.command {
            Some(Command::Build(build)) => build.run(),
            #[cfg(feature = "images")]
            Some(Command::Pull(pull)) => pull.run(),
            #[cfg(feature = "images")]
            Some(Command::Ls(ls)) => ls.run(),
            #[cfg(feature = "images")]
            Some(Command::Prune(prune)) => prune.run(),
            #[cfg(feature = "images")]
            Some(Command::Push(push)) => push.run(),
            None => {
                let dir = match self.dir {
                    Some(dir) => dir,
                    None => arguments::vm_settings()?.base_images_dir,
                };
                look(&dir, self.json)
            }
        }
    }
}

/// Lists the images of a directory, each with whether it is what its manifest says.
fn look(dir: &Path, as_json: bool) -> Result<Answer, Failure> {
    let manifest = Manifest::read(dir)?;
    let mut answer = Answer::from(format!("{}\n", text::escaped_path(dir)));
    let mut files = Vec::new();
    for (name, file) in &manifest.files {
        let check = manifest.check(dir, name)?;
        let state = match check {
            FileCheck::Good => "good",
            FileCheck::Missing => "missing",
            FileCheck::Different => "different",
        };
        let _ = writeln!(answer.text, "{state:9} {:>10}  {}", file.size, text::escaped(name));
        files.push(json!({ "name": name, "size": file.size, "state": check }));
        if check != FileCheck::Good {
            let path = dir.join(name);
            let cause = format!("{} is {state}", path.display());
            let advice = "remove the directory and build the images anew";
            answer.failures.push(Failure::new(Exit::BadImage, cause, advice));
        }
    }
    if as_json {
        let facts = json!({
            "directory": text::path_json(dir), "recipe": manifest.recipe, "arch": manifest.arch, "files": files,
        });
        return Ok(Answer::json(facts, answer.failures));
    }
    Ok(answer)
}

impl From<ImagesError> for Failure {
    fn from(error: ImagesError) -> Self {
        let advice = "build the images with overlay-pool images build, or name their directory";
        Self::new(Exit::BadImage, error, advice)
    }
}
