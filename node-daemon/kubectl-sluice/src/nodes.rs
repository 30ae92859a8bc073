//! Questions to every node.

use std::{collections::BTreeMap, io::Write as _};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sluice_api::{Status, text::Printable};

use crate::{
    cli,
    cluster::{Cluster, Daemon, Output},
};

/// The number of nodes that are queried at a time.
const AT_A_TIME: usize = 16;

/// Runs a command on every node, and prints the outputs in the order of the nodes. Returns the worst exit
/// code: 1 is worse than 4, which stands for warnings.
pub(crate) async fn each(cluster: &Cluster, command: Vec<String>) -> anyhow::Result<u8> {
    let mut worst = 0;
    let mut out = std::io::stdout().lock();
    for (daemon, output) in outputs(cluster, command).await? {
        writeln!(out, "NODE {}", daemon.node)?;
        let code = match output {
            Ok(output) => {
                out.write_all(&output.stdout)?;
                std::io::stderr().write_all(&output.stderr)?;
                output.code
            }
            Err(error) => {
                writeln!(out, "no answer: {}", Printable::new(format!("{error:#}")))?;
                1
            }
        };
        writeln!(out)?;
        worst = worse(worst, code);
    }
    Ok(worst)
}

/// The status of every node in one table. Returns 1 if a node is not ready.
pub(crate) async fn status(cluster: &Cluster, json: bool) -> anyhow::Result<u8> {
    let command = cli::sluiced("status", &["--json"]);
    let mut rows = Vec::new();
    let mut objects = BTreeMap::new();
    let mut code = 0;
    for (daemon, output) in outputs(cluster, command).await? {
        let status = output.and_then(|output| {
            serde_json::from_slice::<Status>(&output.stdout).map_err(|error| {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                anyhow::Error::new(error).context(said)
            })
        });
        let is_ready = status.as_ref().is_ok_and(|status| status.ready);
        code = worse(code, u8::from(!is_ready));
        let object = match &status {
            Ok(status) => serde_json::to_value(status)?,
            Err(error) => Value::from(format!("{error:#}")),
        };
        rows.push(row(&daemon.node, status.as_ref()));
        objects.insert(daemon.node, object);
    }
    let page = if json {
        serde_json::to_string(&objects)?
    } else {
        table(&rows)
    };
    writeln!(std::io::stdout().lock(), "{page}")?;
    Ok(code)
}

async fn outputs(
    cluster: &Cluster,
    command: Vec<String>,
) -> anyhow::Result<Vec<(Daemon, anyhow::Result<Output>)>> {
    let ask = |daemon: Daemon| {
        let command = command.clone();
        async move {
            let output = cluster.run(&daemon, command).await;
            (daemon, output)
        }
    };
    let asked = stream::iter(cluster.daemons().await?).map(ask);
    Ok(asked.buffered(AT_A_TIME).collect().await)
}

fn worse(one: u8, other: u8) -> u8 {
    match (one, other) {
        (0, code) | (code, 0) => code,
        (1, _) | (_, 1) => 1,
        (one, other) => one.max(other),
    }
}

type Row = [String; 8];

fn row(node: &str, status: Result<&Status, &anyhow::Error>) -> Row {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let mut row = Row::default();
            node.clone_into(&mut row[0]);
            "no answer".clone_into(&mut row[1]);
            row[7] = format!("{error:#}");
            return row;
        }
    };
    let ready = if status.ready { "ready" } else { "not ready" };
    [
        node.to_owned(),
        ready.to_owned(),
        status.version.clone(),
        status.kernel.clone(),
        status.mesh.clone(),
        format!(
            "{}/{}",
            status.meshed_pods,
            status.meshed_pods + status.unmeshed_pods
        ),
        status.acceleration.clone(),
        status.problems.join("; "),
    ]
}

fn table(rows: &[Row]) -> String {
    let head = [
        "NODE",
        "DAEMON",
        "VERSION",
        "KERNEL",
        "MESH",
        "MESHED",
        "ACCELERATION",
        "PROBLEMS",
    ];
    let printable = |cell: &String| match &**cell {
        "" => "-".to_owned(),
        cell => Printable::new(cell).to_string(),
    };
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| row.each_ref().map(printable)));
    let mut widths = [0; 8];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Row| {
        let cells = row.iter().zip(widths);
        let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_rows_of_one_table() {
        let status: Status = serde_json::from_str(
            r#"{"version": "0.1.0", "abi": 8, "ready": true, "mesh": "istio", "kernel": "6.1.0",
                "acceleration": "off", "meshed_pods": 3, "unmeshed_pods": 2}"#,
        )
        .unwrap();
        let error = anyhow::anyhow!("gone\u{1b}");
        let page = table(&[row("a", Ok(&status)), row("node-b", Err(&error))]);
        let expected = "\
NODE    DAEMON     VERSION  KERNEL  MESH   MESHED  ACCELERATION  PROBLEMS
a       ready      0.1.0    6.1.0   istio  3/5     off           -
node-b  no answer  -        -       -      -       -             gone\\u{1b}";
        assert_eq!(page, expected);
    }

    #[test]
    fn problems_are_worse_than_warnings() {
        for (one, other, expected) in [(0, 0, 0), (0, 4, 4), (4, 1, 1), (1, 4, 1), (2, 4, 4)] {
            assert_eq!(worse(one, other), expected);
        }
    }
}
