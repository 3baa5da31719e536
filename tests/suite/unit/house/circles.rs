//! Files that take from each other can only be understood together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::imports::Crate;
use crate::harness::prelude::*;

type Edges<'a> = BTreeMap<&'a Path, BTreeSet<&'a Path>>;

#[apply(test)]
#[case::library("src/lib.rs")]
#[case::program("src/main.rs")]
fn no_files_take_from_each_other(#[case] root: &str) {
    let files = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
    let edges = files.edges();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > edges.len(), "{edges:#?}");
    assert_eq!(circle(&edges), None);
}

/// A way from a file back to itself.
fn circle<'a>(edges: &Edges<'a>) -> Option<Vec<&'a Path>> {
    // What takes from nobody that is left can be in no circle.
    let mut left = edges.clone();
    while let Some(done) = left.iter().find(|(_, others)| others.is_empty()).map(|(file, _)| *file)
    {
        left.remove(done);
        for others in left.values_mut() {
            others.remove(done);
        }
    }
    let mut way = vec![*left.keys().next()?];
    loop {
        let next = *left[way.last()?].first()?;
        if let Some(begin) = way.iter().position(|file| *file == next) {
            way.drain(..begin);
            return Some(way);
        }
        way.push(next);
    }
}

/// The circle among files of one folder, by their names.
fn circle_among(scratch: &Scratch, files: &[(&str, &str)]) -> Option<Vec<String>> {
    for (name, text) in files {
        let path = scratch.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    let files = Crate::read(&scratch.join("lib.rs"));
    let way: Vec<PathBuf> = circle(&files.edges())?.into_iter().map(Path::to_owned).collect();
    let name = |path: &PathBuf| path.strip_prefix(&**scratch).expect("below").display().to_string();
    Some(way.iter().map(name).collect())
}

#[apply(test)]
#[case::by_super("use super::b::B;", "use super::a::A;")]
#[case::by_crate("use crate::{b::B};", "fn f() -> crate::a::A {}")]
#[case::in_a_macro("use super::b;", "fn f() { println!(\"{}\", super::a::A) }")]
#[case::by_what_is_handed_on("use crate::B;", "use crate::{self as all, A};")]
fn a_circle_is_found(scratch: Scratch, #[case] a: &str, #[case] b: &str) {
    let lib = "mod a; mod b; pub use a::A; pub use b::B;";
    let found = circle_among(&scratch, &[("lib.rs", lib), ("a.rs", a), ("b.rs", b)]);
    assert_eq!(found, Some(vec!["a.rs".to_owned(), "b.rs".to_owned()]));
}

#[apply(test)]
#[case::handed_on("mod a; mod b; pub use a::A; pub use b::B;", "use crate::B;", "")]
#[case::of_its_own_folder("mod a; mod b; use b::B; struct A(B);", "", "use crate::A;")]
#[case::only_in_tests(
    "mod a; mod b;",
    "use super::b::B;",
    "#[cfg(test)] mod tests { use crate::a::A; }"
)]
#[case::only_in_words(
    "mod a; mod b;",
    "use super::b::B;",
    "/// [`super::a::A`] \n struct B; // crate::a"
)]
fn what_is_no_circle_is_none(
    scratch: Scratch,
    #[case] lib: &str,
    #[case] a: &str,
    #[case] b: &str,
) {
    let files = [("lib.rs", lib), ("a.rs", a), ("b.rs", b)];
    assert_eq!(circle_among(&scratch, &files), None);
}
