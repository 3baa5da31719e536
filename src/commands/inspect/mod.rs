//! `inspect`: what a base image or an overlay is.

mod age;
mod report;

use std::path::PathBuf;

use overlay_pool::image::BaseRef;

use super::exit::Exit;
use super::failure::Failure;
use super::{Answer, text};
use report::Report;

const EXAMPLES: &str = "\
An image that is refused as a base is shown as far as it could be decoded, with the reason; this is
no failure. An overlay's base image isn't opened, but if it is younger than the overlay, inspect
warns. In JSON, sizes are in bytes, a name that isn't UTF-8 is an array of its bytes, and
`refused` is null for a good base image.

Examples:
  overlay-pool inspect base.qcow2
  overlay-pool inspect --json vm.qcow2
  overlay-pool inspect --raw disk.img";

/// Show what an image is, and whether it is a good base image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Inspect {
    /// The image: qcow2, unless --raw.
    #[arg(value_name = "IMG")]
    image: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// The image is raw.
    #[arg(long)]
    raw: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<Answer, Failure> {
        let base = if self.raw { BaseRef::raw(self.image) } else { BaseRef::qcow2(self.image) };
        let report = Report::of(&base)?;
        let text = if self.json {
            let json = serde_json::to_string_pretty(&report).map_err(|error| {
                Failure::new(Exit::Failed, format!("no JSON: {error}"), "do without --json")
            })?;
            text::escaped_json(&json) + "\n"
        } else {
            report.to_string()
        };
        Ok(Answer::from(text))
    }
}
