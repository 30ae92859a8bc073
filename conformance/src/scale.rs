//! Many Pods on one node: what an ADD costs the last of them, and what the daemon needs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::{sys::signal::Signal, unistd::Uid};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    interrupt::Interrupt,
    lab::{
        Binaries,
        cgroup::Cgroup,
        process::{self, output},
    },
    report::step,
    subject::{Subject, sluice::Sluice},
};

const LIMIT: Duration = Duration::from_secs(10);
/// Restarts whose median is told. Odd.
const RESTARTS: u32 = 5;
/// Pods at either end whose medians are compared.
const ENDS: usize = 50;

/// How many.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    binaries: Binaries,
    /// Pods on the node.
    #[arg(long, default_value_t = 500)]
    pods: u16,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured. Times are in milliseconds.
#[derive(Serialize)]
struct Report {
    pods: u16,
    /// Median ADD of the first Pods, of the last ones, and their ratio.
    add_first: f64,
    add_last: f64,
    add_ratio: f64,
    /// Median DEL.
    del: f64,
    /// From the start of a daemon until it serves, with every Pod taken over: median.
    takeover: f64,
    /// Resident memory of the daemon in KiB, without Pods and with all.
    rss_empty_kib: u64,
    rss_kib: u64,
    /// Descriptors that the daemon has open, without Pods and with all.
    descriptors_empty: usize,
    descriptors: usize,
}

/// Network namespaces that stand for Pods.
struct Pods {
    prefix: String,
    count: u16,
}

/// Measures, and prints.
pub(crate) fn run(options: &Options) -> Result<bool> {
    ensure!(Uid::effective().is_root(), "needs root");
    let interrupt = Interrupt::install()?;
    let binaries = options.binaries.resolve()?;
    let name = format!("sluice-scale-{}", std::process::id());
    let directory = tempfile::TempDir::with_prefix(format!("{name}-"))?;
    let cgroup = Cgroup::create(&name)?;
    let pods = Pods {
        prefix: name,
        count: options.pods,
    };
    step("making the namespaces", || pods.make(&interrupt))?;
    let mut sluice = Sluice::start(&binaries, directory.path(), cgroup.path(), "", &interrupt)?;
    let report = measure(&mut sluice, &pods, &interrupt)?;
    Box::new(sluice).stop()?;
    drop(pods);
    cgroup.remove()?;
    show(&report, options.json)?;
    Ok(true)
}

fn measure(sluice: &mut Sluice, pods: &Pods, interrupt: &Interrupt) -> Result<Report> {
    let (rss_empty_kib, descriptors_empty) = footprint(sluice.pid()?)?;
    let entry = sluice.entry().context("an entry")?;
    let plugin = sluice.plugin().context("a plugin")?;
    let call = |verb| -> Result<Vec<f64>> {
        let each = (0..pods.count).map(|number| {
            interrupt.check()?;
            pods.call(&plugin, &entry, verb, number)
        });
        each.collect()
    };
    let adds = step("adding the Pods", || call("ADD"))?;
    let (rss_kib, descriptors) = footprint(sluice.pid()?)?;
    let takeovers = step("restarting the daemon", || {
        let restart = |_| {
            let begin = Instant::now();
            sluice.restart(Signal::SIGKILL, interrupt)?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        };
        (0..RESTARTS).map(restart).collect::<Result<Vec<_>>>()
    })?;
    let dels = step("deleting the Pods", || call("DEL"))?;
    let ends = ENDS.min(adds.len());
    let (add_first, add_last) = (median(&adds[..ends]), median(&adds[adds.len() - ends..]));
    Ok(Report {
        pods: pods.count,
        add_first,
        add_last,
        add_ratio: add_last / add_first,
        del: median(&dels),
        takeover: median(&takeovers),
        rss_empty_kib,
        rss_kib,
        descriptors_empty,
        descriptors,
    })
}

impl Pods {
    fn make(&self, interrupt: &Interrupt) -> Result<()> {
        for number in 0..self.count {
            interrupt.check()?;
            let name = self.name(number);
            let run = |arguments: &[&str]| output(Command::new("ip").args(arguments), LIMIT);
            run(&["netns", "add", &name])?;
            let address = format!("{}/32", Self::address(number));
            run(&["-n", &name, "address", "add", &address, "dev", "lo"])?;
        }
        Ok(())
    }

    /// Runs the plugin alone, as the runtime would after the rest of the chain. Milliseconds.
    fn call(&self, plugin: &Path, entry: &Value, verb: &str, number: u16) -> Result<f64> {
        let netns = self.path(number);
        let mut stdin = entry.clone();
        stdin["cniVersion"] = "1.0.0".into();
        stdin["name"] = "scale".into();
        stdin["runtimeConfig"] =
            json!({ "io.kubernetes.cri.pod-annotations": { "sidecar.istio.io/status": "{}" } });
        stdin["prevResult"] = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "lo", "sandbox": netns }],
            "ips": [{ "address": format!("{}/32", Self::address(number)), "interface": 0 }],
        });
        let mut command = Command::new(plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.name(number))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &netns)
            .env("CNI_PATH", "/nowhere")
            .stdin(process::input(&stdin.to_string())?);
        let begin = Instant::now();
        let Output { status, stdout, .. } = command.output()?;
        let took = begin.elapsed();
        let said = String::from_utf8_lossy(&stdout);
        ensure!(status.success(), "{verb} of Pod {number}: {said}");
        Ok(took.as_secs_f64() * 1e3)
    }

    fn name(&self, number: u16) -> String {
        format!("{}-{number}", self.prefix)
    }

    fn path(&self, number: u16) -> PathBuf {
        Path::new("/run/netns").join(self.name(number))
    }

    fn address(number: u16) -> std::net::Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        [10, 78, high, low].into()
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for number in 0..self.count {
            if self.path(number).exists() {
                let name = self.name(number);
                let _ = output(Command::new("ip").args(["netns", "delete", &name]), LIMIT);
            }
        }
    }
}

/// Resident memory in KiB, and open descriptors.
fn footprint(pid: u32) -> Result<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|text| text.split_whitespace().next()?.parse().ok());
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((rss.context("no VmRSS")?, descriptors))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn show(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
        return Ok(());
    }
    let Report {
        pods,
        add_first,
        add_last,
        add_ratio,
        del,
        takeover,
        rss_empty_kib,
        rss_kib,
        descriptors_empty,
        descriptors,
    } = report;
    println!("  {pods} Pods");
    println!(
        "  ADD {add_first:.2} ms for the first, {add_last:.2} ms for the last: {add_ratio:.2}×"
    );
    println!("  DEL {del:.2} ms");
    println!("  takeover of all Pods by the next daemon {takeover:.0} ms");
    println!("  daemon's memory {rss_empty_kib} KiB without Pods, {rss_kib} KiB with all");
    println!("  descriptors {descriptors_empty} without Pods, {descriptors} with all");
    Ok(())
}
