//! The report of the demonstration, for people and as JSON.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    net::IpAddr,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use sluice_lab::{Lab, Pod, backend::Counters};
use sluice_testbed::terminal::{BOLD, DIM, GREEN, RED, paint};

use super::{row::Row, table::CASES};

/// Everything that was observed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) passed: bool,
    /// Release of the kernel.
    pub(crate) kernel: String,
    pub(crate) rows: Vec<Row>,
    /// For each Pod, connections that its kernel tracks.
    pub(crate) conntrack: BTreeMap<String, u64>,
    /// Median of an ADD by the subject's plugin alone.
    pub(crate) add_millis: Option<f64>,
    /// Why not every row was run.
    pub(crate) failure: Option<String>,
    /// BPF programs, maps and links that came with the lab.
    pub(crate) bpf_objects: usize,
    /// Remains of the lab.
    pub(crate) left_behind: Vec<String>,
}

impl Report {
    /// Nothing observed yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            passed: false,
            kernel: nix::sys::utsname::uname()?
                .release()
                .to_string_lossy()
                .into_owned(),
            rows: Vec::new(),
            conntrack: BTreeMap::new(),
            add_millis: None,
            failure: None,
            bpf_objects: 0,
            left_behind: Vec::new(),
        })
    }

    /// Sets `passed`.
    pub(crate) fn judge(&mut self) {
        self.passed = self.failure.is_none()
            && self.left_behind.is_empty()
            && self.rows.len() == CASES.len()
            && self.rows.iter().all(|row| row.passed)
            && self.conntrack.values().all(|count| *count == 0);
    }
}

/// The output of the report while it grows.
pub(crate) struct Sink {
    json: bool,
    colours: bool,
}

impl Sink {
    /// On standard output; colours only for a terminal.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            colours: !json && stdout().is_terminal(),
        }
    }

    /// The lab at a glance.
    pub(crate) fn picture(&self, lab: &Lab) {
        if self.json {
            return;
        }
        let join = |ips: &[IpAddr]| {
            ips.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("  ")
        };
        println!(
            "\n  {}  {}  bridge sluice0",
            self.bold("node"),
            join(&lab.gateways)
        );
        for (
            index,
            Pod {
                spec, addresses, ..
            },
        ) in lab.pods.iter().enumerate()
        {
            let branch = if index + 1 == lab.pods.len() {
                "└─"
            } else {
                "├─"
            };
            let what = match (spec.meshed, spec.proxy) {
                (true, true) => "meshed      app ⇄ Envoy",
                (true, false) => "meshed      app, and a proxy that is not up",
                (false, _) => "not meshed  app",
            };
            let name = self.bold(&format!("{:<6}", spec.name));
            println!("   {branch} {name} {:<23} {what}", join(addresses));
        }
        println!();
    }

    /// A line for the behaviour and, below, the observations of each process.
    pub(crate) fn row(&self, row: &Row) {
        if self.json {
            return;
        }
        let mark = if row.passed {
            self.green("✓")
        } else {
            self.red("✗")
        };
        println!("{mark} {}", self.bold(&row.name));
        self.detail("call", &call(row));
        for hop in &row.hops {
            let text = format!(
                "{} listener of {} ← {}, original destination {}",
                hop.listener,
                hop.pod,
                hop.client.ip(),
                hop.original
            );
            self.detail("via", &text);
        }
        if let Some(greeting) = &row.heard.greeting {
            self.detail(
                "server",
                &format!("{} saw {}", greeting.pod, greeting.source.ip()),
            );
        }
        self.detail("envoy", &counts(&row.accepted, "accepted nothing"));
        if let Some(reasons) = &row.reasons {
            self.detail("kernel", &counts(reasons, "no decision"));
        }
        for wrong in &row.wrong {
            println!("    {}", self.red(wrong));
        }
    }

    /// The end of the report, or all of it as JSON.
    pub(crate) fn end(&self, report: &Report) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(report)?);
            return Ok(());
        }
        println!();
        let good = report.rows.iter().filter(|row| row.passed).count();
        let tracked: u64 = report.conntrack.values().sum();
        println!(
            "  {good} of {} behaviours as promised, kernel {}",
            CASES.len(),
            report.kernel
        );
        if !report.conntrack.is_empty() {
            println!("  {tracked} connections tracked (conntrack) in the Pods");
        }
        if let Some(millis) = report.add_millis {
            println!("  {millis:.1} ms for the plugin's ADD (median)");
        }
        if let Some(failure) = &report.failure {
            println!("  {}", self.red(failure));
        }
        for left in &report.left_behind {
            println!("  {}", self.red(&format!("left behind: {left}")));
        }
        if report.left_behind.is_empty() {
            let objects = report.bpf_objects;
            println!(
                "  nothing left of the namespaces, processes, cgroup, files, {objects} BPF objects"
            );
        }
        println!(
            "{}",
            if report.passed {
                self.green("passed")
            } else {
                self.red("failed")
            }
        );
        Ok(())
    }

    fn detail(&self, what: &str, text: &str) {
        println!(
            "    {} {text}",
            paint(DIM, &format!("{what:<7}"), self.colours)
        );
    }

    fn bold(&self, text: &str) -> String {
        paint(BOLD, text, self.colours)
    }

    fn green(&self, text: &str) -> String {
        paint(GREEN, text, self.colours)
    }

    fn red(&self, text: &str) -> String {
        paint(RED, text, self.colours)
    }
}

fn call(row: &Row) -> String {
    let Row {
        caller,
        asked,
        heard,
        ..
    } = row;
    let end = match (&heard.errno, heard.peer) {
        (Some(errno), _) => errno.clone(),
        (None, Some(peer)) => format!("sees {peer} as its peer"),
        (None, None) => "nothing".to_owned(),
    };
    format!("{caller} → {asked}: {end} ({:.1} ms)", heard.millis)
}

/// The counters, or a remark if there are none.
fn counts(counters: &Counters, nothing: &str) -> String {
    let count = |(name, n): (&String, &u64)| match n {
        1 => name.clone(),
        n => format!("{name} ×{n}"),
    };
    if counters.is_empty() {
        return nothing.to_owned();
    }
    counters.iter().map(count).collect::<Vec<_>>().join(", ")
}
