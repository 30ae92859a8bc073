//! `docs/reference/rules.md` and the suite: each case is on the page, and the page cites no other.
//!
//! `SLUICE_BLESS=1` writes the generated table of cases anew.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

use std::{collections::BTreeSet, env, fs, path::PathBuf, process::Command};

use sluice_testbed::pages;

const BEGIN: &str = "<!-- begin cases -->\n";
const END: &str = "<!-- end cases -->";

/// A line of `sluice-conformance list`.
struct Case {
    group: String,
    name: String,
    rules: Vec<String>,
}

fn page() -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/rules.md");
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// `O10`: a letter and a number.
fn is_rule(text: &str) -> bool {
    let number = text.strip_prefix(|c: char| c.is_ascii_uppercase());
    number.is_some_and(|number| number.parse::<u8>().is_ok())
}

/// The words at the end of a line are its rules, the first one is its group.
fn case(line: &str) -> Case {
    let (group, mut rest) = line.split_once(' ').unwrap();
    let mut rules = Vec::new();
    while let Some((before, word)) = rest.trim_end().rsplit_once(' ') {
        let word = word.trim_end_matches(',');
        if !is_rule(word) {
            break;
        }
        rules.insert(0, word.to_owned());
        rest = before;
    }
    Case {
        group: group.to_owned(),
        name: rest.trim().to_owned(),
        rules,
    }
}

/// The output of `list`, from the line after the head to the first empty one.
fn cases() -> Vec<Case> {
    let mut list = Command::new(env!("CARGO_BIN_EXE_sluice-conformance"));
    let output = list.arg("list").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().skip(1).take_while(|line| !line.is_empty());
    lines.map(case).collect()
}

/// Rows of the numbered tables: the rule's number and the case that shows it.
fn rules(page: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let number = line.strip_prefix("| ")?.split(" |").next()?;
        let case = line.trim_end_matches(" |").rsplit("| ").next()?;
        is_rule(number).then(|| (number.to_owned(), case.trim_matches('`').to_owned()))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn rules_page_lists_every_case() {
    let (path, page) = page();
    let row = |case: &Case| {
        format!(
            "| {} | {} | {} |\n",
            case.group,
            case.name,
            case.rules.join(", ")
        )
    };
    let rows: String = cases().iter().map(row).collect();
    let table = format!("{BEGIN}\n| Group | Case | Rules |\n|---|---|---|\n{rows}\n");
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (present, after) = rest.split_once(END).unwrap();
    if env::var_os("SLUICE_BLESS").is_some() {
        return fs::write(path, format!("{before}{table}{END}{after}")).unwrap();
    }
    let is_current = format!("{BEGIN}{present}") == table;
    assert!(
        is_current,
        "the table of cases is out of date: run this test with SLUICE_BLESS=1, and read the diff"
    );
}

#[test]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let (_, page) = page();
    let cases = cases();
    let rules = rules(&page);
    for (number, name) in &rules {
        let shows = |case: &&Case| case.name == *name && case.rules.contains(number);
        assert!(
            cases.iter().any(|case| shows(&case)),
            "rule {number} cites '{name}', which does not show it"
        );
    }
    let numbers: BTreeSet<_> = rules.into_iter().map(|(number, _)| number).collect();
    for Case { name, rules, .. } in &cases {
        let unknown = rules.iter().find(|rule| !numbers.contains(*rule));
        assert!(!rules.is_empty() && unknown.is_none(), "{name}: {rules:?}");
    }
}

#[test]
fn pages_name_existing_make_targets() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect();
    let mut count = 0;
    let code = pages::code().unwrap();
    for line in code.iter().filter_map(|line| line.strip_prefix("make ")) {
        let target = line.split_whitespace().next().unwrap_or_default();
        assert!(targets.contains(target), "no target of 'make {line}'");
        count += 1;
    }
    assert!(count >= 20, "{count} targets");
}

#[test]
fn commands_of_the_pages_parse() {
    let mut count = 0;
    for line in pages::code().unwrap() {
        let Some((before, arguments)) = line.split_once("sluice-conformance ") else {
            continue;
        };
        if !(before.is_empty() || before.ends_with('/')) {
            continue;
        }
        // With --help last, clap parses the arguments before it, and runs nothing.
        let script = format!("\"$0\" {arguments} --help >/dev/null");
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &script, env!("CARGO_BIN_EXE_sluice-conformance")]);
        assert!(shell.status().unwrap().success(), "{line}");
        count += 1;
    }
    assert!(count >= 10, "{count} commands");
}
