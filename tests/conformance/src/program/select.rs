//! Which cases a port is judged by.

use std::path::PathBuf;

use super::exit::Stop;
use crate::cases::{self, Named};
use crate::contract;
use crate::id::Id;
use crate::level::Level;
use crate::report::Selection;

#[derive(Debug, clap::Args)]
pub(super) struct Select {
    /// Judge by a part of the contract: core (S, L1 to L10, L13, A, T), crash (C, D, L11, L12 too)
    /// or full (R too). A case is run if all its promises are of that part.
    #[arg(long, value_name = "LEVEL", default_value = "full", hide_possible_values = true)]
    level: Level,

    /// Judge by the cases of a rule or of one promise, such as A5 or A5.2; may be repeated.
    #[arg(long = "rule", value_name = "ID", conflicts_with = "badge")]
    rules: Vec<Id>,

    /// Judge by this case; may be repeated.
    #[arg(long = "case", value_name = "NAME", conflicts_with = "badge")]
    cases: Vec<String>,

    /// Take the cases from a folder, such as one that `export` wrote, in place of those in this
    /// program.
    #[arg(long = "cases", value_name = "DIR", conflicts_with = "badge")]
    folder: Option<PathBuf>,
}

impl Select {
    /// All cases that there are.
    pub(super) fn all(&self) -> Result<Vec<Named>, Stop> {
        let Some(folder) = &self.folder else { return Ok(cases::embedded()) };
        let cases = cases::of(folder).map_err(|error| Stop::usage(error.to_string()))?;
        let unreadable = |error| Stop::usage(format!("{}: {error}", folder.display()));
        cases.into_iter().collect::<Result<_, _>>().map_err(unreadable)
    }

    /// Of all, those of the level.
    pub(super) fn of_level<'a>(&self, all: &'a [Named]) -> impl Iterator<Item = &'a Named> {
        let level = self.level;
        all.iter().filter(move |named| Level::of_all(&named.case.promises) <= level)
    }

    /// Those that are selected.
    pub(super) fn of(&self, all: &[Named]) -> Result<Vec<Named>, Stop> {
        if let Some(unknown) =
            self.cases.iter().find(|name| all.iter().all(|its| its.name != **name))
        {
            return Err(Stop::usage(format!("{unknown} is no case; --list shows them")));
        }
        let promises = contract::promises();
        if let Some(unknown) =
            self.rules.iter().find(|id| promises.iter().all(|promise| !promise.id.is_of(**id)))
        {
            let version = contract::version();
            return Err(Stop::usage(format!("contract {version} has no {unknown}")));
        }
        let is_selected = |named: &&Named| {
            let ids = &named.case.promises;
            let of_rule = |rule: &Id| ids.iter().any(|id| id.meets(*rule));
            (self.cases.is_empty() || self.cases.contains(&named.name))
                && (self.rules.is_empty() || self.rules.iter().any(of_rule))
        };
        let selected: Vec<Named> = self.of_level(all).filter(is_selected).cloned().collect();
        if selected.is_empty() {
            return Err(Stop::usage("no case is left of --level, --rule and --case"));
        }
        Ok(selected)
    }

    pub(super) fn told(&self) -> Selection {
        Selection {
            level: self.level,
            rules: self.rules.clone(),
            cases: self.cases.clone(),
            folder: self.folder.clone(),
            is_cut_short: false,
        }
    }
}
