//! `run --list`: the cases, with their promises and what they are about.

use std::io::{self, Write};

use crate::cases::Named;
use crate::id;

pub(super) fn print(cases: &[Named]) -> io::Result<()> {
    let width = cases.iter().map(|named| named.name.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for Named { name, case } in cases {
        writeln!(out, "{name:width$}  [{}] {}", id::told(&case.promises), case.about)?;
    }
    out.flush()
}
