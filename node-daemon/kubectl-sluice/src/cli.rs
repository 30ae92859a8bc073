//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Queries the node daemons of Sluice in a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-sluice",
    bin_name = "kubectl sluice",
    version,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Access to the cluster.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Kubeconfig [default: $KUBECONFIG, or ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current context].
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Label selector of the daemons' Pods.
    #[arg(
        long,
        global = true,
        value_name = "SELECTOR",
        default_value = "app.kubernetes.io/part-of=sluice,app.kubernetes.io/component=node-agent"
    )]
    pub(crate) selector: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the status of every node in one table.
    Status {
        /// Print a JSON object with the status of each node.
        #[arg(long)]
        json: bool,
    },
    /// List the Pods of every node, or of the node of one Pod.
    Pods {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: Option<String>,
    },
    /// Explain how a connection of a Pod is handled, with the flags of 'sluiced explain'.
    Explain {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: String,
        /// Flags of 'sluiced explain', such as --to IP:PORT.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Print the interception decisions of a Pod as they happen.
    Monitor {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: String,
        /// Flags of 'sluiced monitor', such as --reason RULE.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// List the TCP connections of a Pod.
    Connections {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: String,
    },
    /// List the connections that bypass their sidecars, on every node or of one Pod.
    Audit {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NAMESPACE/NAME")]
        pod: Option<String>,
        /// End the connections that are found.
        #[arg(long)]
        kill: bool,
    },
    /// Check every node.
    Doctor,
}

/// A command of the daemon's binary.
pub(crate) fn sluiced(command: &str, arguments: &[&str]) -> Vec<String> {
    let words = ["/bin/sluiced", command]
        .into_iter()
        .chain(arguments.iter().copied());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, iter::once, path::Path};

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// In the pages optional words are in brackets, and an ellipsis stands for flags of `sluiced`.
    #[test]
    fn pages_quote_valid_commands() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let mut count = 0;
        for page in ["operations.md", "troubleshooting.md", "reference/cli.md"] {
            let text = fs::read_to_string(docs.join(page)).unwrap();
            // A fence has three backquotes and a span one, both odd numbers.
            for line in text.split('`').skip(1).step_by(2).flat_map(str::lines) {
                let line = line.trim_start_matches("$ ").replace(['[', ']', '…'], "");
                let Some(words) = line.strip_prefix("kubectl sluice ") else {
                    continue;
                };
                let parsed =
                    Cli::try_parse_from(once("kubectl-sluice").chain(words.split_whitespace()));
                assert!(parsed.is_ok(), "{line}: {parsed:?}");
                count += 1;
            }
        }
        assert!(count >= 11, "{count} commands");
    }

    #[test]
    fn flags_of_explain_are_passed_on() {
        let line = "kubectl-sluice explain shop/cart --to 10.9.1.1:443 --as 1000";
        let Command::Explain { pod, rest } = Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            unreachable!("the command is explain");
        };
        assert_eq!(pod, "shop/cart");
        assert_eq!(rest, ["--to", "10.9.1.1:443", "--as", "1000"]);
    }
}
