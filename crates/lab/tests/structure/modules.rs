//! Which files of a crate import from which, read from their tokens: paths in `use`, in code and in
//! what macros are given count; doc comments and tests do not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenTree};

use crate::text::{read, relative, tokens_of};
use crate::ways::shortest_ways;

/// The modules of one library or program: which file each is in, and the paths in these files.
pub struct ModuleTree {
    root: PathBuf,
    files: BTreeMap<Vec<String>, PathBuf>,
    mentions: Vec<Mention>,
}

/// A path in a file, by the module that it is written in.
struct Mention {
    module: Vec<String>,
    path: Vec<String>,
}

/// For each file, the files that it imports from, each with a path that shows it.
pub type Arrows = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

impl ModuleTree {
    pub fn read(root: &Path) -> Self {
        let mut tree = Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            mentions: Vec::new(),
        };
        tree.read_file(root, &[]);
        tree
    }

    fn read_file(&mut self, file: &Path, module: &[String]) {
        self.files.insert(module.to_owned(), file.to_owned());
        self.scan(&tokens_of(&read(file)), module);
    }

    /// Notes the paths among `tokens` and reads the modules that are declared there. Attributes and
    /// what is for tests only are left out.
    fn scan(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match (token, tokens.get(at + 1)) {
                (TokenTree::Punct(hash), Some(next)) if hash.as_char() == '#' => {
                    at = end_of_attribute(tokens, at);
                    if is_for_tests_or_elsewhere(&next.to_string()) {
                        at = end_of_item(tokens, at);
                    }
                }
                (TokenTree::Ident(keyword), Some(TokenTree::Ident(name))) if keyword == "mod" => {
                    self.declare(module, &name.to_string(), tokens.get(at + 2));
                    at += 3;
                }
                // `pub(in crate::x)` says who may import, not what is imported.
                (TokenTree::Ident(keyword), Some(TokenTree::Group(_))) if keyword == "pub" => {
                    at += 2;
                }
                (TokenTree::Ident(_), _) => {
                    let mut paths = Vec::new();
                    at = read_paths(tokens, at, &[], &mut paths).max(at + 1);
                    let mention = |path| Mention {
                        module: module.to_owned(),
                        path,
                    };
                    self.mentions.extend(paths.into_iter().map(mention));
                }
                // `::x` and `<T>::x` name no module of this crate.
                _ if is_path_separator(tokens, at) => {
                    at = read_paths(tokens, at + 2, &[], &mut Vec::new()).max(at + 2);
                }
                (TokenTree::Group(group), _) => {
                    self.scan(&group.stream().into_iter().collect::<Vec<_>>(), module);
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    fn declare(&mut self, parent: &[String], name: &str, body: Option<&TokenTree>) {
        let module = [parent, &[name.to_owned()]].concat();
        if let Some(TokenTree::Group(body)) = body {
            let file = self.files[parent].clone();
            self.files.insert(module.clone(), file);
            let tokens: Vec<_> = body.stream().into_iter().collect();
            self.scan(&tokens, &module);
        } else {
            let folder: PathBuf = module.iter().collect();
            let beside = self.root.parent().unwrap().join(folder);
            let file = beside.with_extension("rs");
            let old_style = beside.join("mod.rs");
            self.read_file(if file.is_file() { &file } else { &old_style }, &module);
        }
    }

    /// The root imports from each module that it declares: it re-exports them.
    pub fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        let mut add = |from: &Path, to: &Path, why: String| {
            if from != to {
                let of = arrows.entry(relative(from)).or_default();
                of.entry(relative(to)).or_insert(why);
            }
        };
        for (module, file) in &self.files {
            if let [name] = &module[..] {
                add(&self.root, file, format!("mod {name}"));
            }
        }
        for Mention { module, path } in &self.mentions {
            if let Some(owner) = self.owner_of(module, path) {
                add(&self.files[module], &self.files[&owner], path.join("::"));
            }
        }
        arrows
    }

    /// The module of this crate that owns what a path names, or that the path names.
    fn owner_of(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        if rest.is_empty() {
            return None;
        }
        let mut owner = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_owned(),
            "super" => module.split_last()?.1.to_owned(),
            name => [module, &[name.to_owned()]].concat(),
        };
        for name in rest {
            let deeper = [&owner[..], std::slice::from_ref(name)].concat();
            if name == "super" {
                owner.pop();
            } else if self.files.contains_key(&deeper) {
                owner = deeper;
            } else {
                break;
            }
        }
        self.files.contains_key(&owner).then_some(owner)
    }
}

/// Each shortest circle, file by file, each file followed by the path that leads on to the next.
pub fn circles(arrows: &Arrows) -> BTreeSet<String> {
    let none = BTreeMap::new();
    let imports = |file: &&PathBuf| arrows.get(*file).unwrap_or(&none);
    let mut found = BTreeSet::new();
    for (from, to) in arrows
        .iter()
        .flat_map(|(from, of)| of.keys().map(move |to| (from, to)))
    {
        let mut ways = shortest_ways(to, |file| imports(file).keys().collect());
        let Some(mut circle) = ways.remove(&from) else {
            continue;
        };
        let smallest = (0..circle.len()).min_by_key(|&at| circle[at]).unwrap();
        circle.rotate_left(smallest);
        circle.push(circle[0]);
        let steps = circle.windows(2).map(|step| {
            let why = &imports(&step[0])[step[1]];
            format!("{} -> ({why}) ", step[0].display())
        });
        found.insert(steps.collect::<String>() + &circle[0].display().to_string());
    }
    found
}

/// Reads the path at `at`, or the paths where it ends in `{}`, and returns where they end.
fn read_paths(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(name)) if name != "as" => path.push(name.to_string()),
            Some(TokenTree::Group(list)) if list.delimiter() == Delimiter::Brace => {
                let list: Vec<_> = list.stream().into_iter().collect();
                for tree in list.split(|token| token.to_string() == ",") {
                    read_paths(tree, 0, &path, paths);
                }
                return at + 1;
            }
            Some(TokenTree::Punct(glob)) if glob.as_char() == '*' => path.push("*".to_owned()),
            _ => break,
        }
        at += 1;
        if !is_path_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    paths.push(path);
    at
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| match tokens.get(at) {
        Some(TokenTree::Punct(punct)) if punct.as_char() == ':' => Some(punct.spacing()),
        _ => None,
    };
    colon(at) == Some(Spacing::Joint) && colon(at + 1).is_some()
}

/// `#[cfg(test)]`, or `#[path]`, which another test finds.
fn is_for_tests_or_elsewhere(attribute: &str) -> bool {
    let attribute = attribute.replace(' ', "");
    let is_for_tests = attribute.contains("test") && !attribute.contains("not(test)");
    attribute.starts_with("[path=") || attribute.starts_with("[cfg(") && is_for_tests
}

/// Past `#[...]` or `#![...]`.
fn end_of_attribute(tokens: &[TokenTree], at: usize) -> usize {
    let is_inner = tokens[at + 1].to_string() == "!";
    at + 2 + usize::from(is_inner)
}

/// Past the item that begins at `at`: past its braces or its semicolon.
fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => token.to_string() == ";",
    };
    let length = tokens[at..].iter().position(is_end);
    length.map_or(tokens.len(), |length| at + length + 1)
}
