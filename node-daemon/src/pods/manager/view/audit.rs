//! The manager's part of an audit: it describes the Pods, and reads the programs' maps.

use sluice_abi::Endpoint;

use super::View;
use crate::{
    bpf::Rule,
    pods::{
        Error,
        audit::{Details, Target},
        plan::KernelState,
    },
};

impl View<'_> {
    /// The netns cookies of all meshed Pods, or of one.
    pub(in crate::pods) fn meshed(&self, pod: Option<&str>) -> Result<Vec<u64>, Error> {
        let Some(pod) = pod else {
            return Ok(self.namespaces.cookies());
        };
        let unknown = || Error::NoSuchPod(pod.to_owned());
        let (_, known) = self.registry.find(pod).ok_or_else(unknown)?;
        Ok(known.status.cookie().into_iter().collect())
    }

    /// The description of a meshed Pod, if it is still there.
    pub(in crate::pods) fn target(&self, cookie: u64) -> Result<Option<Target>, Error> {
        let Some(pod) = self.namespaces.get(cookie) else {
            return Ok(None);
        };
        let known = self.first_of(cookie);
        let state = pod.state();
        let own = |rule: &&Rule| matches!(rule, Rule::OwnAddr(_));
        Ok(Some(Target {
            pod: known
                .map(|known| known.record.request.pod.clone())
                .unwrap_or_default(),
            id: pod.id(),
            path: pod.path().to_owned(),
            policy: pod.policy().clone(),
            state: KernelState {
                addresses: state.addresses.clone(),
                netns_entry: state.netns_entry,
                rule_set: state.rule_set.iter().filter(own).copied().collect(),
                ..KernelState::default()
            },
            captures_dns: self.datapath.captures_dns(cookie)?,
            before_proxy: self.is_before_proxy(cookie)?,
            node_conns: self.datapath.node_conns(),
        }))
    }

    /// The state of connections in the programs' maps. Each has the client's end first.
    pub(in crate::pods) fn details(
        &self,
        cookie: u64,
        connections: &[(Endpoint, Endpoint)],
    ) -> Result<Vec<Details>, Error> {
        let details = |(client, server): &(Endpoint, Endpoint)| {
            Ok(Details {
                to: self.datapath.alias_destination(cookie, *server)?,
                accelerated: self.datapath.is_accelerated(cookie, *client, *server)?,
            })
        };
        connections.iter().map(details).collect()
    }
}
