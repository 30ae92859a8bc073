//! Which file of the configuration directory a runtime uses.
//!
//! Kubelet, containerd and CRI-O take the first, in the order of the names' bytes, of the files
//! that end in `.conf`, `.conflist` or `.json`. Kubelet and CRI-O pass over one that they cannot
//! use; containerd stops at it, hence the warning.

use std::collections::BTreeMap;

use crate::conflist;

/// The texts of the directory's files, by name.
pub(crate) type Files = BTreeMap<String, String>;

/// The outcome of a choice.
#[derive(Debug, Default)]
pub(crate) struct Choice<'a> {
    /// The file that is used.
    pub(crate) chosen: Option<&'a str>,
    /// Those before it that cannot be used, and why.
    pub(crate) skipped: Vec<(&'a str, conflist::Error)>,
}

pub(crate) fn choose(files: &Files) -> Choice<'_> {
    let mut choice = Choice::default();
    for (name, text) in files {
        let checked = match extension(name) {
            "conflist" => conflist::check_list(text),
            "conf" | "json" => conflist::check_single(text),
            _ => continue,
        };
        match checked {
            Ok(()) => {
                choice.chosen = Some(name);
                break;
            }
            Err(reason) => choice.skipped.push((name, reason)),
        }
    }
    choice
}

/// Whether a runtime looks at a file of this name.
pub(crate) fn is_configuration(name: &str) -> bool {
    matches!(extension(name), "conf" | "conflist" | "json")
}

/// Whether the file is a list of plugins, and not a single one.
pub(crate) fn is_list(name: &str) -> bool {
    extension(name) == "conflist"
}

/// As Go's `filepath.Ext` has it: also that of a name that begins with the dot.
fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"n","plugins":[{"type":"bridge"}]}"#;
    const SINGLE: &str = r#"{"name":"n","type":"bridge"}"#;

    /// Files, the one chosen, those passed over.
    type Row = (
        &'static [(&'static str, &'static str)],
        Option<&'static str>,
        &'static [&'static str],
    );

    #[test]
    fn the_first_usable_file_is_chosen_as_a_runtime_does() {
        let rows: [Row; 9] = [
            (&[], None, &[]),
            (
                &[("b.conflist", LIST), ("a.conf", SINGLE)],
                Some("a.conf"),
                &[],
            ),
            // In the order of bytes: `f` ends before `flist` does, and capitals come first.
            (
                &[("a.conflist", LIST), ("a.conf", SINGLE)],
                Some("a.conf"),
                &[],
            ),
            (
                &[("a.json", SINGLE), ("Z.json", SINGLE)],
                Some("Z.json"),
                &[],
            ),
            (
                &[("a.conf", ""), ("b.conflist", LIST)],
                Some("b.conflist"),
                &["a.conf"],
            ),
            (
                &[("a.conf", LIST), ("b.conf", SINGLE)],
                Some("b.conf"),
                &["a.conf"],
            ),
            (&[("a.conflist", SINGLE)], None, &["a.conflist"]),
            (
                &[("a.conf.bak", SINGLE), ("README", ""), ("conf", SINGLE)],
                None,
                &[],
            ),
            (&[(".conf", SINGLE), ("a.conf", "{")], Some(".conf"), &[]),
        ];
        for (files, chosen, skipped) in rows {
            let own = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
            let files = files.iter().map(own).collect();
            let choice = choose(&files);
            assert_eq!(choice.chosen, chosen, "{files:?}");
            let names: Vec<_> = choice.skipped.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, skipped, "{files:?}");
        }
    }
}
