//! `sluiced completions` and `sluiced man`: generated from the command line's definition.

use std::{fs::File, io, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::config::Cli;

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: Shell) {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut io::stdout().lock());
}

/// Writes `sluiced.1`, and `sluiced-COMMAND.1` for each command.
pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    // Names subcommands `sluiced-COMMAND`.
    command.build();
    page(directory, "sluiced", command.clone())?;
    for subcommand in command.get_subcommands() {
        let name = format!("sluiced-{}", subcommand.get_name());
        page(directory, &name, subcommand.clone())?;
    }
    Ok(())
}

fn page(directory: &Path, name: &str, command: clap::Command) -> anyhow::Result<()> {
    let path = directory.join(format!("{name}.1"));
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::create(&path).with_context(failed)?;
    let page = Man::new(command.display_name(name));
    page.render(&mut file).with_context(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man(directory.path()).unwrap();
        let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(page("sluiced.1").contains("sluiced\\-status"));
        for command in Cli::command().get_subcommands() {
            let page = page(&format!("sluiced-{}.1", command.get_name()));
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(man(Path::new("/nowhere")).is_err());
    }
}
