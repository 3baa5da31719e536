//! `images push`: a base image into a registry.

use std::path::PathBuf;

use serde_json::json;

use super::super::exec::interrupted;
use super::super::failure::Failure;
use super::super::{Answer, block_on};
use super::registries::{Registries, bar};

const EXAMPLES: &str = "\
It is pushed as an artifact with one layer, the image, and printed with the digest of its manifest,
by which exactly this one can be pulled. A registry that has the image already isn't sent it again.

Examples:
  overlay-pool images push python.qcow2 ghcr.io/acme/python:3.13
  overlay-pool images push --raw disk.img localhost:5000/disk:1";

/// Push a base image to a registry.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Push {
    /// The image.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it shall be, as in ghcr.io/acme/python:3.13.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// It is a raw image, and not qcow2.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    registries: Registries,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Push {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let image: overlay_pool::images::ImageRef = self.image.parse()?;
        let image = if self.raw { image.raw() } else { image };
        let settings = self.registries.settings();
        let (bar, tell) = bar(&image);
        let digest = block_on(async {
            tokio::select! {
                pushed = settings.push(&self.file, &image, &tell) => pushed.map_err(Failure::from),
                failure = interrupted() => Err(failure),
            }
        });
        bar.finish_and_clear();
        let digest = digest??;
        if self.json {
            let facts = json!({ "image": image.to_string(), "digest": digest.to_string() });
            return Ok(Answer::json(facts, Vec::new()));
        }
        Ok(Answer::from(format!("{image}@{digest}\n")))
    }
}
