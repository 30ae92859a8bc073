//! A Pod of the suite: an application and a stand-in for its proxy, which both report their observations.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use sluice_lab::{APPLICATION, Lab, mesh::Ports, pod_annotations::PodAnnotations, servers};
use sluice_testbed::{
    agent::ExecContext,
    cni::{self, AddressPlan},
    interrupt::Interrupt,
    netns::Netns,
    process::Process,
};

use crate::suite::{
    behind,
    observation::{DNS, INBOUND, OUTBOUND},
    second_nic,
};

/// A Pod on the network.
pub(crate) struct TestPod {
    pub(crate) settings: PodAnnotations,
    pub(crate) netns: Netns,
    /// The host behind an interface of the Pod, if it has one.
    pub(crate) behind: Option<Netns>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) gateways: Vec<IpAddr>,
    name: String,
    /// The annotations that the runtime passes.
    annotations: BTreeMap<String, String>,
    joined: bool,
    processes: Vec<Process>,
    behind_servers: Option<Process>,
}

impl TestPod {
    /// Makes it and waits until everything in it serves. Its name must be new.
    pub(crate) fn create(
        lab: &Lab,
        name: &str,
        settings: PodAnnotations,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let home = format!("{}-{name}", lab.name);
        let create = if settings.users {
            Netns::with_users
        } else {
            Netns::create
        };
        let mut test_pod = Self {
            netns: create(home)?,
            behind: None,
            name: name.to_owned(),
            annotations: settings.for_the_plugin(),
            settings,
            addresses: Vec::new(),
            gateways: Vec::new(),
            joined: false,
            processes: Vec::new(),
            behind_servers: None,
        };
        let made = test_pod.start(lab, interrupt);
        match made {
            Ok(()) => Ok(test_pod),
            Err(error) => {
                // The first error is the one to report.
                let _ = test_pod.remove(lab);
                Err(error)
            }
        }
    }

    fn start(&mut self, lab: &Lab, interrupt: &Interrupt) -> Result<()> {
        let side = self.settings.address_plan == AddressPlan::Side;
        if side {
            second_nic::create(lab.node(), &self.netns)?;
        }
        if behind::is_in(&self.settings) {
            self.behind = Some(behind::create(&self.netns)?);
        }
        self.joined = true;
        let result = lab.join(&self.sandbox())?;
        self.addresses = cni::addresses(&result)?;
        self.gateways = cni::gateways(&result);
        if self.settings.address_plan == AddressPlan::Both {
            let result = lab.join(&self.second_sandbox())?;
            self.addresses.extend(cni::addresses(&result)?);
        }
        if side {
            second_nic::lead(lab.node(), &self.addresses)?;
        }
        if let Some(host) = &self.behind {
            behind::lead(lab.node(), &self.addresses)?;
            let place = lab.within(Some(host));
            let servers = servers::listen(lab, &format!("{}-behind", self.name), "behind", place)?;
            self.behind_servers = Some(servers);
        }
        if self.settings.meshed() {
            lab.backend.enroll(self.netns.path(), &self.settings)?;
            if self.settings.proxy {
                self.start_proxy(lab)?;
            }
        }
        let place = ExecContext {
            user: Some(APPLICATION),
            ..lab.within(Some(&self.netns))
        };
        // A Pod that is not meshed is called by its own name.
        let by = if self.settings.meshed() {
            "application"
        } else {
            &self.name
        };
        let application = servers::listen(lab, &self.name, by, place)?;
        self.processes.push(application);
        self.processes
            .iter_mut()
            .chain(&mut self.behind_servers)
            .try_for_each(|process| servers::wait(process, interrupt))
    }

    fn start_proxy(&mut self, lab: &Lab) -> Result<()> {
        let PodAnnotations {
            mesh,
            uid,
            gid,
            dns,
            ..
        } = self.settings;
        let Ports { outbound, inbound } = mesh.ports();
        let transparent = self.settings.transparent();
        let place = ExecContext {
            user: mesh.mark().is_none().then_some(uid),
            group: Some(gid),
            transparent,
            ..lab.within(Some(&self.netns))
        };
        let mut command = place.own()?;
        command.arg("echo-server");
        for (name, port) in [(INBOUND, inbound)].into_iter().chain(dns.then_some(DNS)) {
            command.arg("--tcp").arg(format!("{name}={port}"));
        }
        let kind = if mesh.listens_on_loopback() {
            "--tcp-loopback"
        } else {
            "--tcp"
        };
        command.arg(kind).arg(format!("{OUTBOUND}={outbound}"));
        if let Some(mark) = mesh.mark() {
            command.arg("--mark").arg(mark.to_string());
        }
        if dns {
            command.arg("--udp").arg(format!("{}={}", DNS.0, DNS.1));
        }
        if transparent {
            command.arg("--transparent");
        }
        let log = lab.file(&format!("{}-proxy.log", self.name));
        let title = format!("the proxy of {}", self.name);
        self.processes
            .push(Process::start(&title, &mut command, &log)?);
        Ok(())
    }

    /// Its address of a family; the second one if `index` is 1.
    pub(crate) fn address(&self, v4: bool, index: usize) -> Option<IpAddr> {
        self.addresses
            .iter()
            .filter(|ip| ip.is_ipv4() == v4)
            .nth(index)
            .copied()
    }

    /// Its address of a family on the interface of which its network's plugins know nothing.
    pub(crate) fn side_address(&self, v4: bool) -> Option<IpAddr> {
        let has_side = self.settings.address_plan == AddressPlan::Side;
        let mut all = second_nic::addresses().filter(|_| has_side);
        all.find(|ip| ip.is_ipv4() == v4)
    }

    /// The process of its proxy, if that runs.
    pub(crate) fn proxy(&self) -> Option<u32> {
        let starts_first = self.settings.meshed() && self.settings.proxy;
        let first = self.processes.first().filter(|_| starts_first);
        first.map(Process::id)
    }

    /// Takes it away.
    pub(crate) fn remove(mut self, lab: &Lab) -> Result<()> {
        for process in self.processes.drain(..).chain(self.behind_servers.take()) {
            process.stop()?;
        }
        if self.joined {
            if self.settings.address_plan == AddressPlan::Both {
                lab.leave(&self.second_sandbox())?;
            }
            lab.leave(&self.sandbox())?;
        }
        if let Some(host) = self.behind {
            host.remove()?;
        }
        self.netns.remove()
    }

    fn sandbox(&self) -> cni::Sandbox<'_> {
        cni::Sandbox {
            name: &self.name,
            netns: &self.netns,
            annotations: &self.annotations,
            address_plan: self.settings.address_plan,
            ifname: "eth0",
        }
    }

    fn second_sandbox(&self) -> cni::Sandbox<'_> {
        cni::Sandbox {
            address_plan: AddressPlan::Second,
            ifname: "net1",
            ..self.sandbox()
        }
    }
}
