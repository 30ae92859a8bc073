//! A node with a daemon for each number of Pods, and the chains that end with their plugins.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sluice_lab::{
    Binaries,
    backend::{
        Backend as _,
        sluice::{MEMORY, Sluice},
    },
};
use sluice_testbed::{
    bulk_netns::BulkNetns,
    cgroup::Cgroup,
    cni::{AddressPlan, Network, Sandbox},
    interrupt::Interrupt,
    netns::Netns,
    process::footprint,
};
use tempfile::TempDir;

use crate::{
    control_plane::{LEVELS, Run, Verb},
    cpu::on_cpu,
};

/// The daemons have a processor of their own.
const RUNTIME: usize = 0;
const DAEMONS: usize = 1;

/// The node. Dropping it removes it, too.
pub(super) struct Node {
    bare: Network,
    levels: Vec<Level>,
    bulk_netns: BulkNetns,
    pod: Netns,
    host: Netns,
    directory: TempDir,
}

/// A daemon that knows so many Pods.
struct Level {
    pods: u16,
    network: Network,
    sluice: Sluice,
    cgroup: Cgroup,
}

impl Node {
    /// Makes it, and adds the Pods.
    pub(super) fn build(binaries: &Binaries, interrupt: &Interrupt) -> Result<Self> {
        let directory = TempDir::with_prefix_in("sluice-control-", MEMORY)?;
        let name = directory.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let most = LEVELS.into_iter().max().unwrap_or_default();
        let bare = directory.path().join("bare");
        fs::create_dir(&bare)?;
        let mut node = Self {
            bare: network(binaries, &name, &bare, None)?,
            levels: Vec::new(),
            // One more, to be added and deleted.
            bulk_netns: BulkNetns::make(name.clone(), most + 1, interrupt)?,
            pod: Netns::create(format!("{name}-pod"))?,
            host: Netns::create(format!("{name}-node"))?,
            directory,
        };
        for pods in LEVELS {
            let level = Level::start(binaries, (&name, pods), node.directory.path(), interrupt)?;
            for number in 0..pods {
                interrupt.check()?;
                level.call(&node.bulk_netns, None, Verb::Add, number)?;
            }
            node.levels.push(level);
        }
        Ok(node)
    }

    /// Adds and deletes a Pod. Milliseconds.
    pub(super) fn time(&self, run: Run) -> Result<[(Verb, f64); 2]> {
        let call = |verb| match run {
            Run::Bare => self.chain(&self.bare, verb),
            Run::Chain(pods) => self.chain(&self.level(pods)?.network, verb),
            Run::Plugin(pods) => self.plugin(pods, None, verb),
        };
        on_cpu(RUNTIME, || {
            Ok([(Verb::Add, call(Verb::Add)?), (Verb::Del, call(Verb::Del)?)])
        })
    }

    /// Runs the plugin alone, by `launcher` if there is one.
    pub(super) fn plugin(&self, pods: u16, launcher: Option<Command>, verb: Verb) -> Result<f64> {
        let spare = self.bulk_netns.count() - 1;
        self.level(pods)?
            .call(&self.bulk_netns, launcher, verb, spare)
    }

    /// Resident memory of each daemon in KiB.
    pub(super) fn daemons(&self) -> Result<BTreeMap<u16, u64>> {
        let of = |level: &Level| Ok((level.pods, footprint(level.sluice.pid()?)?.0));
        self.levels.iter().map(of).collect()
    }

    /// A file that is removed with the node.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Deletes the Pods, and then the rest.
    pub(super) fn remove(self) -> Result<()> {
        let Self {
            levels,
            bulk_netns,
            pod,
            host,
            directory,
            ..
        } = self;
        for level in levels {
            for number in 0..level.pods {
                level.call(&bulk_netns, None, Verb::Del, number)?;
            }
            Box::new(level.sluice).stop()?;
            level.cgroup.remove()?;
        }
        drop(bulk_netns);
        pod.remove()?;
        host.remove()?;
        Ok(directory.close()?)
    }

    fn chain(&self, network: &Network, verb: Verb) -> Result<f64> {
        let sandbox = Sandbox {
            name: "pod",
            netns: &self.pod,
            annotations: &[("sidecar.istio.io/status".to_owned(), "{}".to_owned())].into(),
            address_plan: AddressPlan::V4,
            ifname: "eth0",
        };
        let verb = verb.name().to_ascii_lowercase();
        let took = network.clock(&self.host, &sandbox, &verb)?;
        Ok(took.as_secs_f64() * 1e3)
    }

    fn level(&self, pods: u16) -> Result<&Level> {
        let found = self.levels.iter().find(|level| level.pods == pods);
        found.context("no daemon with so many Pods")
    }
}

impl Level {
    fn start(
        binaries: &Binaries,
        (name, pods): (&str, u16),
        directory: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let cgroup = Cgroup::create(&format!("{name}-{pods}"))?;
        let own = directory.join(pods.to_string());
        fs::create_dir(&own)?;
        let sluice = on_cpu(DAEMONS, || {
            Sluice::start(binaries, &own, cgroup.path(), "", interrupt)
        })?;
        Ok(Self {
            pods,
            network: network(binaries, &format!("{name}-{pods}"), &own, Some(&sluice))?,
            sluice,
            cgroup,
        })
    }

    fn call(
        &self,
        bulk_netns: &BulkNetns,
        launcher: Option<Command>,
        verb: Verb,
        number: u16,
    ) -> Result<f64> {
        let plugin = self.sluice.plugin().context("a plugin")?;
        let entry = self.sluice.entry().context("an entry")?;
        let command = match launcher {
            Some(mut launcher) => {
                launcher.arg(plugin);
                launcher
            }
            None => Command::new(plugin),
        };
        bulk_netns.call(command, &entry, verb.name(), number)
    }
}

fn network(
    binaries: &Binaries,
    name: &str,
    directory: &Path,
    sluice: Option<&Sluice>,
) -> Result<Network> {
    let mut plugins: Vec<PathBuf> = ["bridge", "host-local", "portmap"]
        .map(|plugin| binaries.cni_plugins.join(plugin))
        .into();
    plugins.extend(sluice.and_then(Sluice::plugin));
    let entry = sluice.and_then(Sluice::entry);
    Network::create(name, directory, &binaries.cnitool, &plugins, entry)
}
