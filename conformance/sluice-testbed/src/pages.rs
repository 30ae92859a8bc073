//! The pages of the documentation, for tests that compare them with the code.

use std::{fs, path::Path};

use anyhow::Result;

use crate::workspace;

/// Folders with pages, from the root of the checkout.
const FOLDERS: [&str; 4] = ["", "docs", "docs/reference", "docs/design"];

/// The text of every page. The changelog is none: it has commands of earlier versions.
pub fn texts() -> Result<Vec<String>> {
    let is_page = |path: &Path| {
        path.extension().is_some_and(|kind| kind == "md") && !path.ends_with("CHANGELOG.md")
    };
    let mut texts = Vec::new();
    for folder in FOLDERS {
        for file in fs::read_dir(workspace::root().join(folder))? {
            let path = file?.path();
            if is_page(&path) {
                texts.push(fs::read_to_string(path)?);
            }
        }
    }
    Ok(texts)
}

/// The code of every page: the lines of fenced blocks, and code spans. A fence has three backquotes and a span
/// one, both odd numbers.
pub fn code() -> Result<Vec<String>> {
    let lines = |text: String| {
        let code = text.split('`').skip(1).step_by(2).flat_map(str::lines);
        code.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    Ok(texts()?.into_iter().flat_map(lines).collect())
}
