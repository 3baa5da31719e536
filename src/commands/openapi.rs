//! `openapi`: the description of what `serve` answers.

use overlay_pool::api;

use super::Answer;

/// Print the description of the server's API, in the form of `OpenAPI` 3.1.
#[derive(Debug, clap::Args)]
pub(super) struct Openapi {}

impl Openapi {
    pub(super) fn run() -> Answer {
        Answer::from(format!("{:#}\n", api::openapi()))
    }
}
