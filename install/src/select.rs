//! Selects the file of the configuration directory that a runtime uses.
//!
//! Kubelet, containerd and CRI-O use the first file, in the order of the names' bytes, that ends in
//! `.conf`, `.conflist` or `.json`. Kubelet and CRI-O ignore a file that they cannot use; containerd stops
//! at it, hence the warning. If the use of a file depends on the runtime and its version, each file that
//! may be selected is a candidate.

use crate::{
    conf_files::{Files, Plugins, extension},
    conflist,
    fitness::{self, Doubt},
};

/// The outcome of a selection.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    /// The candidates. Most runtimes use the first.
    pub(crate) candidates: Vec<&'a str>,
    /// The candidates that some runtimes do not use, with the reasons.
    pub(crate) doubts: Vec<(&'a str, Doubt)>,
    /// The files before the candidates that cannot be used, with the reasons.
    pub(crate) unusable: Vec<(&'a str, conflist::Error)>,
}

impl<'a> Selection<'a> {
    /// The file that most runtimes use.
    pub(crate) fn first(&self) -> Option<&'a str> {
        self.candidates.first().copied()
    }
}

pub(crate) fn select<'a>(files: &'a Files, plugins: &Plugins) -> Selection<'a> {
    let mut selection = Selection::default();
    let mut is_certain = false;
    for (name, text) in files.iter().filter(|(name, _)| !name.contains('/')) {
        let fitness = match extension(name) {
            "conflist" => fitness::of_list(text, files, plugins),
            "conf" | "json" => fitness::of_single(text, plugins),
            _ => continue,
        };
        match fitness {
            Ok(doubt) => {
                is_certain = doubt.is_none();
                selection.candidates.push(name);
                selection.doubts.extend(doubt.map(|doubt| (&**name, doubt)));
            }
            Err(reason) => selection.unusable.push((name, reason)),
        }
        if is_certain {
            return selection;
        }
    }
    // Without a file that every runtime uses, the doubtful ones are the only candidates.
    selection.candidates.truncate(1);
    let first = selection.first();
    selection.doubts.retain(|(name, _)| Some(*name) == first);
    selection
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"n","plugins":[{"type":"bridge"}]}"#;
    const SINGLE: &str = r#"{"name":"n","type":"bridge"}"#;
    const ABSENT: &str = r#"{"name":"n","plugins":[{"type":"bridge"},{"type":"absent"}]}"#;
    const TEXTUAL: &str = r#"{"name":"n","disableCheck":"True","plugins":[{"type":"bridge"}]}"#;
    const FOLDED: &str = r#"{"name":"n"}"#;

    /// Files, the candidates, the ignored files.
    type Row = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
        &'static [&'static str],
    );

    fn check(rows: &[Row]) {
        for &(files, candidates, unusable) in rows {
            let own = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
            let files = files.iter().map(own).collect();
            let selection = select(&files, &Plugins::from(["bridge".to_owned()]));
            assert_eq!(selection.candidates, candidates, "{files:?}");
            let names: Vec<_> = selection.unusable.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, unusable, "{files:?}");
        }
    }

    #[test]
    fn the_first_usable_file_is_chosen_as_a_runtime_does() {
        check(&[
            (&[], &[], &[]),
            (
                &[("b.conflist", LIST), ("a.conf", SINGLE)],
                &["a.conf"],
                &[],
            ),
            // In the order of bytes: `f` ends before `flist` does, and capitals come first.
            (
                &[("a.conflist", LIST), ("a.conf", SINGLE)],
                &["a.conf"],
                &[],
            ),
            (&[("a.json", SINGLE), ("Z.json", SINGLE)], &["Z.json"], &[]),
            (
                &[("a.conf", ""), ("b.conflist", LIST)],
                &["b.conflist"],
                &["a.conf"],
            ),
            (
                &[("a.conf", LIST), ("b.conf", SINGLE)],
                &["b.conf"],
                &["a.conf"],
            ),
            (&[("a.conflist", SINGLE)], &[], &["a.conflist"]),
            (
                &[("a.conf.bak", SINGLE), ("README", ""), ("conf", SINGLE)],
                &[],
                &[],
            ),
            (&[(".conf", SINGLE), ("a.conf", "{")], &[".conf"], &[]),
        ]);
    }

    #[test]
    fn files_that_some_runtimes_use_are_candidates_before_the_one_that_all_use() {
        check(&[
            (
                &[("a.conflist", ABSENT), ("b.conflist", LIST)],
                &["a.conflist", "b.conflist"],
                &[],
            ),
            (
                &[("a.conflist", TEXTUAL), ("b.conf", SINGLE)],
                &["a.conflist", "b.conf"],
                &[],
            ),
            (
                &[("a.conf", r#"{"type":"bridge"}"#), ("b.conf", SINGLE)],
                &["a.conf", "b.conf"],
                &[],
            ),
            (
                &[
                    ("a.conflist", FOLDED),
                    ("b.conflist", LIST),
                    ("n/10.conf", SINGLE),
                ],
                &["a.conflist", "b.conflist"],
                &[],
            ),
            (
                &[("a.conflist", FOLDED), ("b.conflist", LIST)],
                &["b.conflist"],
                &["a.conflist"],
            ),
            (
                &[("a.conflist", FOLDED), ("n/1.conf", "{")],
                &[],
                &["a.conflist"],
            ),
            // None that every runtime uses: the first.
            (
                &[("a.conflist", ABSENT), ("b.conflist", TEXTUAL)],
                &["a.conflist"],
                &[],
            ),
        ]);
    }
}
