//! A Pod: a network namespace with an application in it and, perhaps, a proxy.

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sluice_testbed::{
    agent::{ExecContext, serve::READY},
    cni::{AddressPlan, Sandbox},
    interrupt::Interrupt,
    netns::Netns,
    process::Process,
};

use crate::{
    APPLICATION,
    backend::Counters,
    pod_annotations::{INTERCEPTION_MODE, PodAnnotations},
    proxy::{Hop, Mode, Proxy},
};

/// The wait ends with the condition: the limit is for an emulated processor.
const START: Duration = Duration::from_mins(1);

/// How a Pod is made.
#[derive(Clone, Copy)]
pub struct PodSpec {
    /// Its name.
    pub name: &'static str,
    /// The injector has marked it as meshed.
    pub meshed: bool,
    /// Its proxy runs.
    pub proxy: bool,
    /// Its proxy takes connections as `TPROXY` does, and keeps the client's address.
    pub transparent: bool,
    /// The ports of its application; without any there is none.
    pub ports: &'static [u16],
}

/// A Pod.
pub struct Pod {
    /// How it was made.
    pub spec: PodSpec,
    /// Its network namespace.
    pub netns: Netns,
    /// Its addresses, once it joined the network.
    pub addresses: Vec<IpAddr>,
    /// The result of the CNI chain.
    pub result: Value,
    annotations: BTreeMap<String, String>,
    application: Option<Process>,
    proxy: Option<Proxy>,
}

impl PodSpec {
    /// Its annotations, if it is meshed.
    pub fn settings(&self) -> PodAnnotations {
        let plain = PodAnnotations::default();
        if self.transparent {
            plain.with(INTERCEPTION_MODE, "TPROXY")
        } else {
            plain
        }
    }
}

impl Pod {
    /// Its namespace, not yet on the network.
    pub fn create(spec: PodSpec, lab: &str) -> Result<Self> {
        let annotations = if spec.meshed {
            spec.settings().for_the_plugin()
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            spec,
            netns: Netns::create(format!("{lab}-{}", spec.name))?,
            addresses: Vec::new(),
            result: Value::Null,
            annotations,
            application: None,
            proxy: None,
        })
    }

    /// The sandbox for the runtime.
    pub fn sandbox(&self) -> Sandbox<'_> {
        Sandbox {
            name: self.spec.name,
            netns: &self.netns,
            annotations: &self.annotations,
            address_plan: AddressPlan::Dual,
            ifname: "eth0",
        }
    }

    /// Starts its processes; [`Pod::wait`] waits for them.
    pub fn start(&mut self, cgroup: &Path, envoy: &Path, directory: &Path) -> Result<()> {
        let PodSpec {
            name,
            proxy,
            ports,
            transparent,
            ..
        } = self.spec;
        let place = ExecContext {
            netns: Some(self.netns.path()),
            cgroup: Some(cgroup),
            ..ExecContext::default()
        };
        if proxy {
            let own = directory.join(format!("{name}-proxy"));
            let mode = if transparent {
                Mode::Transparent
            } else {
                Mode::Redirect
            };
            self.proxy = Some(Proxy::start(name, place, envoy, &own, mode)?);
        }
        if !ports.is_empty() {
            let mut command = ExecContext {
                user: Some(APPLICATION),
                ..place
            }
            .own()?;
            command.args(["serve", "--name", name]);
            for port in ports {
                command.args(["--port", &port.to_string()]);
            }
            let log = directory.join(format!("{name}-application.log"));
            let title = format!("the application of {name}");
            self.application = Some(Process::start(&title, &mut command, &log)?);
        }
        Ok(())
    }

    /// Waits until its processes serve.
    pub fn wait(&mut self, interrupt: &Interrupt) -> Result<()> {
        if let Some(application) = &mut self.application {
            let ready = interrupt.wait(START, || {
                application.check()?;
                Ok(application.log().lines().any(|line| line == READY))
            })?;
            if !ready {
                bail!("an application is not ready\n{}", application.tail());
            }
        }
        self.proxy
            .as_mut()
            .map_or(Ok(()), |proxy| proxy.wait(interrupt))
    }

    /// Its address of a family.
    pub fn address(&self, v4: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().find(|ip| ip.is_ipv4() == v4).copied();
        found.with_context(|| format!("{} lacks an address of a family", self.spec.name))
    }

    /// Connections of its proxy so far.
    pub fn hops(&self) -> Result<Vec<Hop>> {
        self.proxy
            .as_ref()
            .map_or(Ok(Vec::new()), |proxy| proxy.hops(self.spec.name))
    }

    /// Accepted connections of its proxy's listeners so far.
    pub fn accepted(&self) -> Result<Counters> {
        self.proxy
            .as_ref()
            .map_or(Ok(Counters::new()), |proxy| proxy.accepted(self.spec.name))
    }

    /// Ends its processes.
    pub fn stop(&mut self) -> Result<()> {
        let proxy = self.proxy.take().map(|proxy| proxy.process);
        for process in proxy.into_iter().chain(self.application.take()) {
            process.stop()?;
        }
        Ok(())
    }
}
