//! Compares the reference of the command line with the code.

use std::{collections::BTreeSet, fs, path::Path};

use clap::{CommandFactory as _, Parser as _};
use sluice_testbed::pages;

use crate::cli::Cli;

/// The flags in the first cells of the tables below a heading.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('#'));
    let flag = |line: &str| {
        let cell = line.strip_prefix("| `")?.split(['`', ' ']).next()?;
        Some(cell.to_owned())
    };
    lines.filter_map(flag).collect()
}

#[test]
fn pages_quote_valid_commands() {
    let code = pages::code().unwrap();
    let commands = code
        .iter()
        .filter(|line| line.starts_with("sluice-install "));
    let mut count = 0;
    for line in commands {
        let parsed = Cli::try_parse_from(line.split_whitespace());
        assert!(parsed.is_ok(), "{line}: {parsed:?}");
        count += 1;
    }
    assert!(count >= 10, "{count} commands");
}

#[test]
fn cli_page_lists_every_command_and_flag() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let page = fs::read_to_string(path).unwrap();
    let command = Cli::command();
    let documented = page
        .lines()
        .filter_map(|line| line.strip_prefix("### sluice-install "));
    let commands = command.get_subcommands().map(clap::Command::get_name);
    assert_eq!(
        documented.collect::<BTreeSet<_>>(),
        commands.collect::<BTreeSet<_>>()
    );
    for command in command.get_subcommands() {
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let flags: BTreeSet<_> = flags.map(|flag| format!("--{flag}")).collect();
        let heading = format!("### sluice-install {}", command.get_name());
        assert_eq!(listed(&page, &heading), flags, "{heading}");
    }
    for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
        let always = format!("All commands accept `--{flag} ");
        assert!(page.contains(&always), "--{flag}");
    }
}
