//! Help that fits the terminal: what the source breaks into lines is one paragraph.

use clap::{Command, CommandFactory};

use super::Cli;

/// The command line, whose texts are broken where the terminal ends.
pub(super) fn command() -> Command {
    flowing(Cli::command())
}

fn flowing(mut command: Command) -> Command {
    if let Some(help) = command.get_after_help() {
        let help = flowed(&help.to_string());
        command = command.after_help(help);
    }
    command.mut_subcommands(flowing)
}

/// Joins lines that begin with a letter; what is indented is a table or an example, and stays.
fn flowed(text: &str) -> String {
    let begins = |line: &str| line.starts_with(|first: char| !first.is_whitespace());
    let mut flowed = String::new();
    let mut before = "";
    for line in text.lines() {
        if begins(line) && begins(before) {
            flowed.push(' ');
        } else if !flowed.is_empty() {
            flowed.push('\n');
        }
        flowed += line;
        before = line;
    }
    flowed
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Command, command, flowed};

    #[rstest]
    fn paragraphs_are_joined_and_tables_stay() {
        let text = "One\ntwo.\n\nThree:\n  a  b\n     c\nFour\nfive.";
        assert_eq!(flowed(text), "One two.\n\nThree:\n  a  b\n     c\nFour five.");
    }

    /// A terminal of 80 columns breaks no line of a table, where the rest would stand for an entry.
    #[rstest]
    fn tables_fit_80_columns() {
        fn look(command: &Command, wide: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            // Examples are to be copied, as lines of their own.
            let tables = help.lines().take_while(|line| *line != "Examples:");
            let tables = tables.filter(|line| line.starts_with(' '));
            wide.extend(tables.filter(|line| line.chars().count() > 80).map(str::to_owned));
            command.get_subcommands().for_each(|command| look(command, wide));
        }
        let mut wide = Vec::new();
        look(&command(), &mut wide);
        assert!(wide.is_empty(), "{wide:#?}");
    }
}
