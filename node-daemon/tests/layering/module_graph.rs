//! The modules of a crate and the paths by which they name each other, from a scan of the sources.
//!
//! The scan reads paths that begin with `crate::` or `super::`, in `use` declarations and in code, and
//! follows `use` declarations of a parent that re-export an item of a child. Tests are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The path of a module or an item, from the root of its crate.
pub(crate) type ItemPath = Vec<String>;

/// The modules of one crate.
pub(crate) struct ModuleGraph {
    texts: BTreeMap<ItemPath, String>,
}

impl ModuleGraph {
    /// Reads the sources below `src`.
    pub(crate) fn read(src: &Path) -> Self {
        let texts = super::sources(src).into_iter().map(|file| {
            let text = fs::read_to_string(&file).expect("a source file");
            let name = file.strip_prefix(src).expect("a file below src");
            (module_of(name), code_of(&text))
        });
        Self {
            texts: texts.collect(),
        }
    }

    /// For each module, which of its children depends on which other one. A dependency between a
    /// module and its own parent does not count.
    pub(crate) fn sibling_edges(&self) -> BTreeMap<ItemPath, BTreeMap<String, BTreeSet<String>>> {
        let mut found: BTreeMap<_, BTreeMap<_, BTreeSet<_>>> = BTreeMap::new();
        for (module, text) in &self.texts {
            for path in paths(text, module) {
                let target = self.defining_module(&path);
                let common = module.iter().zip(&target).take_while(|(a, b)| a == b);
                let common = common.count();
                if let (Some(from), Some(to)) = (module.get(common), target.get(common)) {
                    let siblings = found.entry(module[..common].to_vec()).or_default();
                    let targets = siblings.entry(from.clone()).or_default();
                    targets.insert(to.clone());
                }
            }
        }
        found
    }

    /// The module that defines an item, behind re-exports.
    fn defining_module(&self, path: &[String]) -> ItemPath {
        let depth = (0..=path.len())
            .rev()
            .find(|depth| self.texts.contains_key(&path[..*depth]))
            .expect("a crate has a root");
        let (module, rest) = path.split_at(depth);
        let re_exported = rest.first().and_then(|name| {
            let children = re_exports(&self.texts[module]);
            let child = children.into_iter().find(|one| one.last() == Some(name))?;
            let below = [module, &child].concat();
            self.texts
                .contains_key(&below[..=module.len()])
                .then_some(below)
        });
        re_exported.map_or_else(|| module.to_vec(), |item| self.defining_module(&item))
    }
}

/// The module of a file below `src`.
fn module_of(file: &Path) -> ItemPath {
    let mut parts: ItemPath = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let is_root = parts.len() == 1 && (parts[0] == "lib" || parts[0] == "main");
    if is_root || parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// A source text without comments and without the unit tests at its end.
fn code_of(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {");
    text[..tests.unwrap_or(text.len())]
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The absolute paths in a text that begin with `crate::` or `super::`.
fn paths(text: &str, module: &[String]) -> Vec<ItemPath> {
    let mut found = Vec::new();
    for (word, levels) in [("crate::", module.len()), ("super::", 1)] {
        for (at, _) in text.match_indices(word) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
                continue;
            }
            let mut base = module.to_vec();
            base.truncate(module.len() - levels.min(module.len()));
            tree(&text[at + word.len()..], &base, &mut found);
        }
    }
    found
}

/// The paths of the child items that a module re-exports.
fn re_exports(text: &str) -> Vec<ItemPath> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("use ") {
        let line = text[..at].rsplit('\n').next().unwrap_or_default();
        if line.trim_start().starts_with("pub") {
            let rest = &text[at + "use ".len()..];
            tree(rest.strip_prefix("self::").unwrap_or(rest), &[], &mut found);
        }
    }
    found
}

/// Reads a path or a tree of paths (`a::{b, c::d}`) and returns what follows it.
fn tree<'a>(text: &'a str, base: &[String], found: &mut Vec<ItemPath>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = tree(rest, base, found).trim_start();
            let Some(more) = rest.strip_prefix(',') else {
                return rest.strip_prefix('}').unwrap_or(rest);
            };
            rest = more;
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let path = match name {
        "" | "self" => base.to_vec(),
        "super" => base[..base.len().saturating_sub(1)].to_vec(),
        _ => [base, &[name.to_owned()]].concat(),
    };
    if let Some(below) = rest.strip_prefix("::") {
        tree(below, &path, found)
    } else {
        found.push(path);
        rest
    }
}
