//! Which file of a crate takes something from which other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The names on the way to a module or an item.
type Names = Vec<String>;

/// The modules of a crate, by their paths from its root, which is the empty one.
#[derive(Debug, Default)]
pub(super) struct Crate(BTreeMap<Names, Module>);

#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    /// What `use` calls how here.
    bindings: BTreeMap<String, Names>,
    /// Bindings that are for others alone, so that the file itself takes nothing by them.
    handed_on: BTreeSet<String>,
    /// Paths that stand in the code, each made to begin at the root.
    paths: BTreeSet<Names>,
    /// Names that the code has.
    idents: BTreeSet<String>,
}

/// A token as far as paths are made of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Ident(String),
    Colons,
    Open(Delimiter),
    Close,
    Other(char),
}

impl Crate {
    /// Reads the file `root` and the files of its modules.
    pub(super) fn read(root: &Path) -> Self {
        let folder = root.parent().expect("a folder of sources");
        let mut read = Self::default();
        read.module(&[], root, folder);
        read
    }

    fn module(&mut self, names: &[String], file: &Path, folder: &Path) {
        let text = std::fs::read_to_string(file).expect("a source file");
        let stream: TokenStream = text.parse().expect("Rust");
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let (module, children) = Module::parse(file, names, &tokens);
        self.0.insert(names.to_vec(), module);
        for child in children {
            let nested = folder.join(&child);
            let beside = nested.with_extension("rs");
            let file = if beside.is_file() { beside } else { nested.join("mod.rs") };
            self.module(&[names, &[child]].concat(), &file, &nested);
        }
    }

    /// The files that each file takes something from, but for the modules that it lies in: whoever
    /// lives in a house may use its door.
    pub(super) fn edges(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut edges: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (names, module) in &self.0 {
            let bound = module.bindings.iter();
            let used = bound.filter(|(name, _)| !module.handed_on.contains(*name));
            let taken = used.map(|(_, path)| path).chain(&module.paths);
            let files = taken.filter_map(|path| self.origin(path, 0));
            let above = (0..=names.len()).filter_map(|length| self.0.get(&names[..length]));
            let above: BTreeSet<_> = above.map(|module| module.file.as_path()).collect();
            let others = files.filter(|file| !above.contains(file));
            edges.entry(&module.file).or_default().extend(others);
        }
        edges
    }

    /// The file that what a path names is written in, whoever hands it on; none where it isn't of
    /// this crate.
    fn origin(&self, path: &[String], depth: usize) -> Option<&Path> {
        assert!(depth < 50, "{path:?} leads to itself");
        let known = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let module = &self.0[&path[..known]];
        let Some(name) = path.get(known) else { return Some(&module.file) };
        match module.bindings.get(name) {
            Some(bound) => self.origin(&[bound, &path[known + 1..]].concat(), depth + 1),
            None => Some(&module.file),
        }
    }
}

impl Module {
    fn parse(file: &Path, names: &[String], tokens: &[Token]) -> (Self, Vec<String>) {
        let mut module = Self { file: file.to_owned(), ..Self::default() };
        let mut children = Vec::new();
        let mut uses = Vec::new();
        let ident = |at: usize| match tokens.get(at) {
            Some(Token::Ident(name)) => Some(name.as_str()),
            _ => None,
        };
        let mut at = 0;
        while at < tokens.len() {
            match (ident(at), ident(at + 1)) {
                (Some("mod"), Some(child)) if tokens.get(at + 2) == Some(&Token::Other(';')) => {
                    children.push(child.to_owned());
                    at += 3;
                }
                // In the bounds of a type it says what that captures.
                (Some("use"), None) if tokens.get(at + 1) == Some(&Token::Other('<')) => at += 1,
                (Some("use"), _) => {
                    let of_some = at > 3 && tokens[at - 3] == Token::Open(Delimiter::Parenthesis);
                    let public = at > 0 && ident(at - 1) == Some("pub")
                        || of_some && ident(at - 4) == Some("pub");
                    at += 1;
                    let begin = uses.len();
                    at = use_tree(tokens, at, &mut Vec::new(), &mut uses);
                    let handed_on = uses[begin..].iter().map(|(name, _)| name.clone());
                    if public {
                        module.handed_on.extend(handed_on);
                    }
                }
                (Some(first), _) => {
                    let is_path = at == 0 || tokens[at - 1] != Token::Colons;
                    let mut path = vec![first.to_owned()];
                    module.idents.insert(first.to_owned());
                    at += 1;
                    while tokens.get(at) == Some(&Token::Colons) && ident(at + 1).is_some() {
                        path.extend(ident(at + 1).map(str::to_owned));
                        at += 2;
                    }
                    if is_path && path.len() > 1 {
                        module.paths.insert(path);
                    }
                }
                _ => at += 1,
            }
        }
        // What is handed on may be used here too.
        module.handed_on.retain(|name| !module.idents.contains(name));
        let rooted = |path: &[String]| rooted(path, names, &children);
        module.bindings =
            uses.iter().filter_map(|(name, path)| Some((name.clone(), rooted(path)?))).collect();
        let bound = |path: &[String]| Some([module.bindings.get(&path[0])?, &path[1..]].concat());
        module.paths =
            module.paths.iter().filter_map(|path| rooted(path).or_else(|| bound(path))).collect();
        (module, children)
    }
}

/// A path from the root; none where it begins neither there, nor here, nor with a child.
fn rooted(path: &[String], names: &[String], children: &[String]) -> Option<Names> {
    let (first, rest) = path.split_first()?;
    let start = match first.as_str() {
        "crate" => Vec::new(),
        "self" => names.to_vec(),
        "super" => {
            let ups = 1 + rest.iter().take_while(|name| *name == "super").count();
            let above = names.get(..names.len().checked_sub(ups)?)?;
            return Some([above, &rest[ups - 1..]].concat());
        }
        child if children.iter().any(|name| name == child) => [names, &path[..1]].concat(),
        _ => return None,
    };
    Some([&start, rest].concat())
}

/// Reads one tree of a `use`; says where it ends.
fn use_tree(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Names,
    uses: &mut Vec<(String, Names)>,
) -> usize {
    let length = prefix.len();
    loop {
        match tokens.get(at) {
            Some(Token::Ident(name)) if name == "as" => {
                if let Some(Token::Ident(alias)) = tokens.get(at + 1) {
                    uses.push((alias.clone(), prefix.clone()));
                }
                at += 2;
                break;
            }
            Some(Token::Ident(name)) => {
                if name != "self" || prefix.is_empty() {
                    prefix.push(name.clone());
                }
                at += 1;
                let goes_on = match tokens.get(at) {
                    Some(Token::Colons) => true,
                    Some(Token::Ident(word)) => word == "as",
                    _ => false,
                };
                if !goes_on {
                    let name = prefix.last().cloned().unwrap_or_default();
                    uses.push((name, prefix.clone()));
                    break;
                }
            }
            Some(Token::Colons) => at += 1,
            Some(Token::Open(Delimiter::Brace)) => {
                at += 1;
                while tokens.get(at).is_some_and(|token| *token != Token::Close) {
                    at = use_tree(tokens, at, prefix, uses);
                    if tokens.get(at) == Some(&Token::Other(',')) {
                        at += 1;
                    }
                }
                at += 1;
                break;
            }
            other => panic!("a use that isn't understood: {other:?} after {prefix:?}"),
        }
    }
    prefix.truncate(length);
    at
}

/// The tokens without comments, literals, and the tests beside the code.
fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut of_tests = false;
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Ident(ident) => tokens.push(Token::Ident(ident.to_string())),
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                let double = |next: &TokenTree| matches!(next, TokenTree::Punct(punct) if punct.as_char() == ':');
                let joint = punct.spacing() == proc_macro2::Spacing::Joint;
                if joint && trees.next_if(double).is_some() {
                    tokens.push(Token::Colons);
                } else {
                    tokens.push(Token::Other(':'));
                }
            }
            TokenTree::Punct(punct) => {
                of_tests &= punct.as_char() != ';';
                tokens.push(Token::Other(punct.as_char()));
            }
            TokenTree::Literal(_) => tokens.push(Token::Other('"')),
            TokenTree::Group(group) => {
                of_tests |= group.stream().to_string().replace(' ', "") == "cfg(test)";
                if of_tests && group.delimiter() == Delimiter::Brace {
                    of_tests = false;
                    continue;
                }
                tokens.push(Token::Open(group.delimiter()));
                flatten(group.stream(), tokens);
                tokens.push(Token::Close);
            }
        }
    }
}
