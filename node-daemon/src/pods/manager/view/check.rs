//! CHECK: compares the kernel state with the desired state.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    net::IpAddr,
    path::Path,
};

use sluice_api::{AddRequest, Attachment};

use super::View;
use crate::{
    bpf::Rule,
    netns::{Netns, ProxyUser},
    pods::{
        Error, addresses, manager::namespaces::MeshedPod, plan::KernelState,
        source_addr::PASSTHROUGH,
    },
};

impl View<'_> {
    /// Returns the first difference.
    pub(in crate::pods) fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let unknown = || Error::Unknown(attachment.clone());
        let known = self.registry.get(attachment).ok_or_else(unknown)?;
        let Some(cookie) = known.status.cookie() else {
            return Ok(());
        };
        self.compare(cookie, self.namespaces.get(cookie).ok_or_else(unknown)?)
    }

    /// Compares the runtime's report with the record, then the kernel state. Only annotations that
    /// affect traffic count.
    pub(in crate::pods) fn check_reported(&self, request: &AddRequest) -> Result<(), Error> {
        let unknown = || Error::Unknown(request.attachment.clone());
        let known = (self.registry.get(&request.attachment)).ok_or_else(unknown)?;
        let recorded = &known.record.request;
        if let (Some(now), Some(then)) = (&request.annotations, &recorded.annotations) {
            let verdict = |annotations| self.verdict(Some(annotations));
            same(
                "settings in the Pod's annotations",
                &verdict(then)?,
                &verdict(now)?,
            )?;
        }
        if let Some(cookie) = known.status.cookie() {
            let netns = Netns::open(Path::new(&request.netns))?;
            same("cookie of CNI_NETNS", &cookie, &netns.id().cookie)?;
            let reported = addresses::verify(&request.addresses, &netns.interfaces()?)?;
            let own = |addresses: Vec<IpAddr>| addresses.into_iter().collect::<BTreeSet<_>>();
            let recorded = known.record.addresses().collect();
            same("addresses in prevResult", &own(recorded), &own(reported))?;
        }
        self.check(&request.attachment)
    }

    /// Compares from the hooks, on which all else depends, to the Pod's own entries.
    fn compare(&self, cookie: u64, pod: &MeshedPod) -> Result<(), Error> {
        let Self { datapath, .. } = self;
        let state = pod.state();
        same(
            "hooks of the cgroup missing",
            &Vec::new(),
            &datapath.missing()?,
        )?;
        let netns = pod.reopen();
        same("network namespace in place", &true, &netns.is_some())?;
        let attached = datapath.has_sk_lookup(cookie);
        same("inbound hook attached", &state.sk_lookup, &attached)?;
        same(
            "process_ip",
            &state.netns_entry,
            &datapath.netns_entry(cookie)?,
        )?;
        self.compare_addresses(cookie, state)?;
        self.compare_lists(cookie, state)?;
        netns.map_or(Ok(()), |netns| self.compare_inside(cookie, state, &netns))
    }

    fn compare_addresses(&self, cookie: u64, state: &KernelState) -> Result<(), Error> {
        let what = |addr| format!("local_pod_ips at {}", IpAddr::from(addr));
        for (addr, pod) in &state.addresses {
            same(&what(*addr), &Some(*pod), &self.datapath.address(*addr)?)?;
        }
        let present = self.datapath.all_addresses()?.into_iter();
        let own = present.filter(|(_, pod)| pod.cookie == cookie);
        for (addr, pod) in own.filter(|(addr, _)| !state.addresses.contains_key(addr)) {
            same(&what(addr), &None, &Some(pod))?;
        }
        Ok(())
    }

    fn compare_lists(&self, cookie: u64, state: &KernelState) -> Result<(), Error> {
        let present = self.datapath.all_rules()?.into_iter();
        let present: HashSet<Rule> = present.filter(|one| one.cookie() == cookie).collect();
        for entry in state.rule_set.symmetric_difference(&present) {
            let what = format!("listed {entry:?}");
            same(
                &what,
                &state.rule_set.contains(entry),
                &present.contains(entry),
            )?;
        }
        Ok(())
    }

    /// Compares the state inside the netns.
    fn compare_inside(&self, cookie: u64, state: &KernelState, netns: &Netns) -> Result<(), Error> {
        if let Some(netns_entry) = state.netns_entry {
            let port = netns_entry.pod.inbound_port.get();
            let what = format!("listener on {port} registered");
            let registered = self.datapath.listeners(cookie)? > 0;
            let proxy = ProxyUser::of(&netns_entry.pod);
            let listens = netns.sockets()?.any_of_proxy_on(port, proxy);
            same(&what, &(registered || listens), &registered)?;
        }
        if state.passthrough {
            let interfaces = netns.interfaces()?;
            let mut addresses = interfaces.iter().flat_map(|one| &one.addresses);
            let there = addresses.any(|address| *address == PASSTHROUGH);
            same("::6 on the loopback interface", &true, &there)?;
        }
        if let Some(routing) = state.source_routing {
            let there = netns.has_source_routing(routing)?;
            same(
                "routing of connections that keep their source",
                &true,
                &there,
            )?;
        }
        if let Some(rerouting) = &state.rerouting {
            let there = netns.has_rerouting(rerouting)?;
            same("programs of virtual interfaces", &true, &there)?;
        }
        let installed = netns.installed(&state.routes)?;
        same("routes to the proxy", &state.routes, &installed)
    }
}

fn same<T: PartialEq + Debug>(what: &str, expected: &T, present: &T) -> Result<(), Error> {
    if expected == present {
        return Ok(());
    }
    Err(Error::Differs {
        what: what.to_owned(),
        expected: format!("{expected:?}"),
        present: format!("{present:?}"),
    })
}
