//! `images ls`: what images there are, of both kinds.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use indicatif::BinaryBytes;
use overlay_pool::images::{ImageRef, Store, Stored};
use overlay_pool::vm::Manifest;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::{Answer, arguments, text};
use super::registries::StoreDir;

const EXAMPLES: &str = "\
Base images come from registries, by `images pull`; an image without a name is one that its tag has
moved away from. Guest images are those of VMs, by `images build`; `images` verifies them.

Examples:
  overlay-pool images ls
  overlay-pool images ls --json";

/// List base images of registries, and guest images.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Ls {
    #[command(flatten)]
    store: StoreDir,
    /// Where the guest images are, instead of `OVERLAY_POOL_IMAGES` and the usual places.
    #[arg(long, value_name = "DIR")]
    guest_images: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let store = self.store.path();
        let store = std::path::absolute(&store).unwrap_or(store);
        // Who only looks makes none.
        let images = if store.exists() { Store::open(&store)?.list()? } else { Vec::new() };
        let guests = match self.guest_images {
            Some(directory) => directory,
            None => arguments::vm_settings()?.base_images_dir,
        };
        // Without guest images there is nothing to list of them.
        let manifest = Manifest::read(&guests).ok();
        if self.json {
            let files = |manifest: &Manifest| -> Value {
                let files = manifest.files.iter();
                files.map(|(name, file)| json!({ "name": name, "size": file.size })).collect()
            };
            let facts = json!({
                "store": text::path_json(&store),
                "base_images": images.iter().map(fact).collect::<Value>(),
                "guest_images_directory": text::path_json(&guests),
                "guest_images": manifest.as_ref().map_or_else(|| json!([]), files),
            });
            return Ok(Answer::json(facts, Vec::new()));
        }
        let mut shown = base_images(&store, &images);
        if let Some(manifest) = manifest {
            let _ = writeln!(shown, "guest images in {}", text::escaped_path(&guests));
            for (name, file) in &manifest.files {
                let size = BinaryBytes(file.size).to_string();
                let _ = writeln!(shown, "{size:>12}  {}", text::escaped(name));
            }
        }
        Ok(Answer::from(shown))
    }
}

fn base_images(store: &Path, images: &[Stored]) -> String {
    let mut shown = format!("base images in {}\n", text::escaped_path(store));
    for image in images {
        let size = BinaryBytes(image.size).to_string();
        let names: Vec<_> = image.names.iter().map(ImageRef::to_string).collect();
        let names = if names.is_empty() { "(no name)".to_owned() } else { names.join(", ") };
        let _ = writeln!(shown, "{size:>12}  {}  {names}", image.digest);
    }
    shown
}

fn fact(image: &Stored) -> Value {
    let used = image.used.duration_since(UNIX_EPOCH).unwrap_or_default();
    let names: Vec<_> = image.names.iter().map(ImageRef::to_string).collect();
    json!({
        "digest": image.digest.to_string(), "path": text::path_json(&image.path),
        "size": image.size, "format": image.format().as_str(), "names": names,
        "used": used.as_secs(),
    })
}
