//! The container runtime's part: one network of real plugins, driven by cnitool.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    agent::ExecContext,
    netns::Netns,
    process::{self, output},
};

const LIMIT: Duration = Duration::from_secs(40);
const VERSION: &str = "1.0.0";
/// The name of the node's bridges, or its prefix.
pub const BRIDGE: &str = "sluice0";

/// The directory of libcni's cached results.
const RESULTS: &str = "/var/lib/cni/results";

/// A network that Pods join.
pub struct Network {
    name: String,
    cnitool: PathBuf,
    configurations: PathBuf,
    plugins: PathBuf,
    backend: Option<Value>,
}

/// A Pod as the runtime knows it.
pub struct Sandbox<'a> {
    /// Its name and its container's identifier.
    pub name: &'a str,
    /// Its network namespace.
    pub netns: &'a Netns,
    /// The annotations that the runtime passes on.
    pub annotations: &'a BTreeMap<String, String>,
    /// The network that it joins.
    pub address_plan: AddressPlan,
    /// The interface that the network makes in it.
    pub ifname: &'static str,
}

/// Which addresses a network gives to a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressPlan {
    /// One of each family.
    #[default]
    Dual,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Two of each family.
    Twice,
    /// One of each family, on a link of its own instead of a bridge.
    Routed,
    /// One of each family, and an interface that the network's plugins do not know.
    Side,
    /// One of each family on each of two networks, as with Multus.
    Both,
    /// The second of them.
    Second,
}

impl AddressPlan {
    const ALL: [Self; 8] = [
        Self::Dual,
        Self::V4,
        Self::V6,
        Self::Twice,
        Self::Routed,
        Self::Side,
        Self::Both,
        Self::Second,
    ];

    /// The suffix of this network's name and bridge.
    fn suffix(self) -> &'static str {
        match self {
            Self::Dual => "",
            Self::V4 => "-v4",
            Self::V6 => "-v6",
            Self::Twice => "-two",
            Self::Routed => "-ptp",
            Self::Side => "-side",
            Self::Both => "-both",
            Self::Second => "-2nd",
        }
    }

    /// The addresses of the Pods; the node's namespace has no others.
    fn ranges(self) -> Value {
        let subnet = |subnet: &str| json!([{ "subnet": subnet }]);
        let part = |prefix: &str, subnet: &str, from: u8, to: u8| {
            json!([{
                "subnet": format!("{prefix}{subnet}"),
                "rangeStart": format!("{prefix}{from}"),
                "rangeEnd": format!("{prefix}{to}"),
            }])
        };
        match self {
            Self::Dual => json!([subnet("10.77.0.0/24"), subnet("fd00:77::/64")]),
            Self::V4 => json!([subnet("10.77.1.0/24")]),
            Self::V6 => json!([subnet("fd00:77:1::/64")]),
            Self::Routed => json!([subnet("10.77.4.0/24"), subnet("fd00:77:4::/64")]),
            Self::Side => json!([subnet("10.77.5.0/24"), subnet("fd00:77:5::/64")]),
            Self::Both => json!([subnet("10.77.6.0/24"), subnet("fd00:77:6::/64")]),
            Self::Second => json!([subnet("10.77.7.0/24"), subnet("fd00:77:7::/64")]),
            Self::Twice => json!([
                part("10.77.2.", "0/24", 10, 99),
                part("10.77.2.", "0/24", 110, 199),
                part("fd00:77:2::", "/64", 10, 99),
                part("fd00:77:2::", "/64", 110, 199),
            ]),
        }
    }
}

impl Network {
    /// Writes the conflist, with the subject's entry at the end of the chain.
    pub fn create(
        name: &str,
        directory: &Path,
        cnitool: &Path,
        plugins: &[PathBuf],
        backend: Option<Value>,
    ) -> Result<Self> {
        let (configurations, binaries) = (directory.join("net.d"), directory.join("plugins"));
        fs::create_dir(&configurations)?;
        fs::create_dir(&binaries)?;
        for plugin in plugins {
            let file = plugin.file_name().context("a plugin without a name")?;
            symlink(plugin, binaries.join(file))?;
        }
        for (index, address_plan) in AddressPlan::ALL.into_iter().enumerate() {
            let mut chain = vec![
                link(address_plan, directory),
                json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
            ];
            chain.extend(backend.clone());
            let name = format!("{name}{}", address_plan.suffix());
            let conflist = json!({ "cniVersion": VERSION, "name": name, "plugins": chain });
            let file = configurations.join(format!("1{index}-lab.conflist"));
            fs::write(file, serde_json::to_string_pretty(&conflist)?)?;
        }
        Ok(Self {
            name: name.to_owned(),
            cnitool: cnitool.to_owned(),
            configurations,
            plugins: binaries,
            backend,
        })
    }

    /// Joins a Pod to the network, from the node's namespace. Returns the chain's result.
    pub fn add(&self, node: &Netns, pod: &Sandbox<'_>) -> Result<Value> {
        let result = output(&mut self.cnitool(node, "add", pod)?, LIMIT)
            .with_context(|| format!("cannot add the Pod {}", pod.name))?;
        serde_json::from_str(&result).context("the result of the chain")
    }

    /// Takes a Pod off the network.
    pub fn del(&self, node: &Netns, pod: &Sandbox<'_>) -> Result<()> {
        output(&mut self.cnitool(node, "del", pod)?, LIMIT)
            .with_context(|| format!("cannot delete the Pod {}", pod.name))
            .map(drop)
    }

    /// How long the whole chain takes for a verb, from the runtime's start to its end.
    pub fn clock(&self, node: &Netns, pod: &Sandbox<'_>, verb: &str) -> Result<Duration> {
        let mut command = self.cnitool(node, verb, pod)?;
        let started = Instant::now();
        // Not `finish`, which looks only now and then. The entry sets a time limit.
        let Output { status, stderr, .. } = command.output()?;
        let elapsed = started.elapsed();
        if !status.success() {
            bail!(
                "{verb} of {}: {}",
                pod.name,
                String::from_utf8_lossy(&stderr)
            );
        }
        Ok(elapsed)
    }

    /// How long the subject's plugin alone takes for an ADD, `count` times.
    pub fn time(&self, pod: &Sandbox<'_>, result: &Value, count: u32) -> Result<Vec<Duration>> {
        let Some(Value::Object(mut entry)) = self.backend.clone() else {
            return Ok(Vec::new());
        };
        let kind = entry
            .get("type")
            .and_then(Value::as_str)
            .context("an entry without a type")?;
        let plugin = fs::canonicalize(self.plugins.join(kind))?;
        entry.insert("cniVersion".into(), VERSION.into());
        entry.insert("name".into(), self.name.as_str().into());
        entry.insert("prevResult".into(), result.clone());
        entry.insert("runtimeConfig".into(), capabilities(pod.annotations));
        let stdin = Value::Object(entry).to_string();
        let mut took = Vec::new();
        for _ in 0..count {
            for verb in ["ADD", "DEL"] {
                let mut command = Command::new(&plugin);
                command
                    .env_clear()
                    .env("CNI_COMMAND", verb)
                    .env("CNI_CONTAINERID", "timing")
                    .env("CNI_IFNAME", "eth0")
                    .env("CNI_NETNS", pod.netns.path())
                    .env("CNI_PATH", &self.plugins)
                    .env("CNI_ARGS", arguments(pod.name));
                command.stdin(process::input(&stdin)?);
                let started = Instant::now();
                // Not `finish`, which looks only now and then. The entry sets a time limit.
                let Output { status, stdout, .. } = command.output()?;
                let elapsed = started.elapsed();
                if !status.success() {
                    bail!(
                        "{verb} by the plugin alone: {}",
                        String::from_utf8_lossy(&stdout)
                    );
                }
                if verb == "ADD" {
                    took.push(elapsed);
                }
            }
        }
        Ok(took)
    }

    /// The results of the network's Pods in libcni's cache.
    pub fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(RESULTS).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name.starts_with(&format!("{}-", self.name)))
            .collect()
    }

    fn cnitool(&self, node: &Netns, verb: &str, pod: &Sandbox<'_>) -> Result<Command> {
        let place = ExecContext {
            netns: Some(node.path()),
            ..ExecContext::default()
        };
        let mut command = place.command(&self.cnitool)?;
        command
            .arg(verb)
            .arg(format!("{}{}", self.name, pod.address_plan.suffix()))
            .arg(pod.netns.path())
            .env("NETCONFPATH", &self.configurations)
            .env("CNI_PATH", &self.plugins)
            .env("CNI_IFNAME", pod.ifname)
            .env("CNI_ARGS", arguments(pod.name))
            .env("CAP_ARGS", capabilities(pod.annotations).to_string());
        Ok(command)
    }
}

impl Drop for Network {
    /// A lab that ends early takes no Pod off the network: what is kept of them goes here.
    fn drop(&mut self) {
        for name in self.cached() {
            drop(fs::remove_file(Path::new(RESULTS).join(name)));
        }
    }
}

/// The plugin that makes the link: a bridge as with Flannel, or a link as with Calico.
fn link(address_plan: AddressPlan, directory: &Path) -> Value {
    let default = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let ipam = json!({
        "type": "host-local",
        "dataDir": directory.join("leases"),
        "ranges": address_plan.ranges(),
        "routes": if address_plan == AddressPlan::Second { json!([]) } else { default },
    });
    match address_plan {
        AddressPlan::Routed => json!({ "type": "ptp", "ipam": ipam }),
        _ => json!({
            "type": "bridge",
            "bridge": format!("{BRIDGE}{}", address_plan.suffix()),
            "isGateway": true,
            "ipam": ipam,
        }),
    }
}

fn arguments(pod: &str) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME={pod};\
         K8S_POD_INFRA_CONTAINER_ID={pod};K8S_POD_UID={pod}"
    )
}

fn capabilities(annotations: &BTreeMap<String, String>) -> Value {
    json!({ "io.kubernetes.cri.pod-annotations": annotations })
}

/// The addresses in a result that belong to a Pod.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"]
        .as_array()
        .context("a result without addresses")?;
    ips.iter()
        .map(|ip| {
            let address = ip["address"]
                .as_str()
                .context("an address that is no text")?;
            let (address, _) = address
                .split_once('/')
                .context("an address without a length")?;
            Ok(address.parse()?)
        })
        .collect()
}

/// The addresses that the node has on the bridge: the gateways in the result.
pub fn gateways(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["gateway"].as_str()?.parse().ok())
        .collect()
}
