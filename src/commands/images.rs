//! `images`: the guest images.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay_pool::vm::{FileCheck, ImagesError, Manifest, VmSettings};
use serde_json::json;

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, text};

/// Where the recipe is, in a checkout of this project.
const PROVISION: &str = "fixtures/provision.sh";

const EXAMPLES: &str = "\
Every file that the manifest names is read, and its SHA-256 is compared. If one is missing or
different, the exit code is 3.

Examples:
  overlay-pool images
  overlay-pool images --build
  overlay-pool images --dir /var/lib/images --json";

/// List and verify the guest images of VMs, or build them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Images {
    /// Where they are; `OVERLAY_POOL_IMAGES`, or else images or target/guest-images.
    #[arg(long, value_name = "DIR", conflicts_with = "build")]
    dir: Option<PathBuf>,
    /// Build them first, as fixtures/provision.sh in this directory does.
    #[arg(long)]
    build: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Images {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        if self.build {
            build()?;
        }
        let settings = VmSettings::from_env()
            .map_err(|error| Failure::new(Exit::Usage, error, "or unset it"))?;
        let dir = self.dir.unwrap_or(settings.base_images_dir);
        let manifest = Manifest::read(&dir)?;
        let mut answer = Answer::default();
        let mut files = Vec::new();
        for (name, file) in &manifest.files {
            let check = manifest.check(&dir, name)?;
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
                answer.failures.push(Failure::new(Exit::BadImage, cause, "build the images anew"));
            }
        }
        if self.json {
            let facts = json!({
                "directory": dir, "recipe": manifest.recipe, "arch": manifest.arch, "files": files,
            });
            answer.text = text::escaped_json(&format!("{facts:#}\n"));
        }
        Ok(answer)
    }
}

fn build() -> Result<(), Failure> {
    let script = Path::new(PROVISION);
    let advice = "run it in a checkout of this project";
    if !script.is_file() {
        return Err(Failure::new(Exit::Failed, format!("no {PROVISION} here"), advice));
    }
    match Command::new(script).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let cause = format!("{PROVISION} failed ({status})");
            Err(Failure::new(Exit::Failed, cause, "see what it said above"))
        }
        Err(error) => Err(Failure::new(Exit::Failed, format!("{PROVISION}: {error}"), advice)),
    }
}

impl From<ImagesError> for Failure {
    fn from(error: ImagesError) -> Self {
        let advice = "build the images with overlay-pool images --build, or name their directory";
        Self::new(Exit::BadImage, error, advice)
    }
}
