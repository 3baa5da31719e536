//! `completions`: what a shell needs to complete this command line.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Answer, Cli};

const EXAMPLES: &str = "\
Examples:
  overlay-pool completions bash > ~/.local/share/bash-completion/completions/overlay-pool
  overlay-pool completions zsh > ~/.zfunc/_overlay-pool
  overlay-pool completions fish > ~/.config/fish/completions/overlay-pool.fish";

/// Print the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Answer {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "overlay-pool", &mut script);
        Answer::from(String::from_utf8_lossy(&script).into_owned())
    }
}
