//! Many network namespaces that stand for Pods, with nothing in them but an address.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

use crate::{
    interrupt::Interrupt,
    process::{self, output},
};

const LIMIT: Duration = Duration::from_secs(10);

/// The namespaces. Dropping it removes them.
pub struct BulkNetns {
    prefix: String,
    count: u16,
}

impl BulkNetns {
    /// Makes so many, with names that begin with `prefix`.
    pub fn make(prefix: String, count: u16, interrupt: &Interrupt) -> Result<Self> {
        // Made first: a failure drops it, and its parts with it.
        let bulk_netns = Self { prefix, count };
        for number in 0..count {
            interrupt.check()?;
            let name = bulk_netns.name(number);
            let run = |arguments: &[&str]| output(Command::new("ip").args(arguments), LIMIT);
            run(&["netns", "add", &name])?;
            let address = format!("{}/32", address(number));
            run(&["-n", &name, "address", "add", &address, "dev", "lo"])?;
        }
        Ok(bulk_netns)
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Has the plugin called for each, in turn. Milliseconds.
    pub fn all(
        &self,
        plugin: &Path,
        entry: &Value,
        verb: &str,
        interrupt: &Interrupt,
    ) -> Result<Vec<f64>> {
        let each = (0..self.count).map(|number| {
            interrupt.check()?;
            self.call(Command::new(plugin), entry, verb, number)
        });
        each.collect()
    }

    /// Runs the plugin alone, as the runtime would after the rest of the chain: `plugin` is it, or
    /// what starts it. Milliseconds.
    pub fn call(&self, plugin: Command, entry: &Value, verb: &str, number: u16) -> Result<f64> {
        self.call_with(plugin, entry, verb, number, &BTreeMap::new())
    }

    /// The same with annotations beside that of the injector.
    pub fn call_with(
        &self,
        plugin: Command,
        entry: &Value,
        verb: &str,
        number: u16,
        annotations: &BTreeMap<String, String>,
    ) -> Result<f64> {
        self.prepare(plugin, entry, verb, number, annotations)?
            .run()
    }

    /// What [`BulkNetns::call_with`] runs.
    pub fn prepare(
        &self,
        mut plugin: Command,
        entry: &Value,
        verb: &str,
        number: u16,
        annotations: &BTreeMap<String, String>,
    ) -> Result<PluginCall> {
        let netns = self.path(number);
        let mut stdin = entry.clone();
        stdin["cniVersion"] = "1.0.0".into();
        stdin["name"] = "crowd".into();
        let mut annotations = json!(annotations);
        annotations["sidecar.istio.io/status"] = "{}".into();
        stdin["runtimeConfig"] = json!({ "io.kubernetes.cri.pod-annotations": annotations });
        stdin["prevResult"] = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "lo", "sandbox": netns }],
            "ips": [{ "address": format!("{}/32", address(number)), "interface": 0 }],
        });
        plugin
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.name(number))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &netns)
            .env("CNI_PATH", "/nowhere")
            .stdin(process::input(&stdin.to_string())?);
        Ok(PluginCall {
            plugin,
            subject: format!("{verb} of Pod {number}"),
        })
    }

    /// Runs `ip` in a namespace, with arguments that are separated by blanks.
    pub fn ip(&self, number: u16, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name(number)]);
        output(command.args(arguments.split(' ')), LIMIT).map(drop)
    }

    /// Removes the name of a namespace. The kernel takes the namespace down afterwards.
    pub fn remove(&self, number: u16) -> Result<()> {
        let path = self.path(number);
        umount2(&path, MntFlags::MNT_DETACH)?;
        Ok(fs::remove_file(path)?)
    }

    fn name(&self, number: u16) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The file of a namespace.
    pub fn path(&self, number: u16) -> PathBuf {
        Path::new("/run/netns").join(self.name(number))
    }
}

/// A call of the plugin that waits to be run.
pub struct PluginCall {
    plugin: Command,
    subject: String,
}

impl PluginCall {
    /// Runs it. Milliseconds.
    pub fn run(mut self) -> Result<f64> {
        let begin = Instant::now();
        // Not `finish`, which looks only now and then. The entry sets a time limit.
        let Output { status, stdout, .. } = self.plugin.output()?;
        let took = begin.elapsed();
        let said = String::from_utf8_lossy(&stdout);
        ensure!(status.success(), "{}: {said}", self.subject);
        Ok(took.as_secs_f64() * 1e3)
    }
}

impl Drop for BulkNetns {
    fn drop(&mut self) {
        for number in 0..self.count {
            if self.path(number).exists() {
                let name = self.name(number);
                let _ = output(Command::new("ip").args(["netns", "delete", &name]), LIMIT);
            }
        }
    }
}

fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    [10, 78, high, low].into()
}
