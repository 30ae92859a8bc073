//! The reference: the rules that a sidecar's init container writes, in each meshed Pod.

mod meshes;
mod plan;
mod rules;

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_testbed::{
    agent::ExecContext,
    process::{finish, output},
};

use crate::{
    backend::{Backend, Counters, passthrough_address},
    mesh::Mesh,
    pod_annotations::PodAnnotations,
};
use plan::Plan;
use rules::{Family, V4, V6};

const LIMIT: Duration = Duration::from_secs(10);
/// Packets with the mark of the transparent proxy are delivered locally, with any address.
const TPROXY_TABLE: &str = "133";
/// The same in ambient mode, for connections of ztunnel from its client's address.
const AMBIENT_LOOKUP: (&str, &str) = ("0x111/0xfff", "100");

const FAMILIES: [(&str, Family); 2] = [("iptables-restore", V4), ("ip6tables-restore", V6)];

/// Real rules.
pub struct Iptables;

impl Backend for Iptables {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    fn enroll(&self, netns: &Path, settings: &PodAnnotations) -> Result<()> {
        let transparent = settings.mesh.is_istio() && Plan::read(settings)?.transparent;
        let place = ExecContext {
            netns: Some(netns),
            ..ExecContext::default()
        };
        let ip = |arguments: &str| {
            let arguments = arguments.split(' ');
            output(place.command(Path::new("ip"))?.args(arguments), LIMIT)
        };
        passthrough_address(netns)?;
        for (program, family) in FAMILIES {
            write(&place, program, &text(settings, &family)?)?;
        }
        let lookup = match settings.mesh {
            Mesh::Ambient => Some(AMBIENT_LOOKUP),
            _ => transparent.then_some((rules::MARK, TPROXY_TABLE)),
        };
        if let Some((mark, table)) = lookup {
            for family in ["-4", "-6"] {
                ip(&format!("{family} rule add fwmark {mark} lookup {table}"))?;
                ip(&format!(
                    "{family} route add local default dev lo table {table}"
                ))?;
            }
        }
        Ok(())
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn tracks_connections(&self) -> bool {
        true
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// The programs that write the rules, and their input for a Pod of Istio with these settings.
pub fn rules(settings: &PodAnnotations) -> Result<[(&'static str, String); 2]> {
    let plan = Plan::read(settings)?;
    Ok(FAMILIES.map(|(program, family)| (program, rules::rules(&plan, &family))))
}

fn text(settings: &PodAnnotations, family: &Family) -> Result<String> {
    match settings.mesh {
        // The Pods of such a node have an IPv4 address.
        mesh if !family.v4 && mesh.node_wide().is_some_and(|node| !node.dual_stack) => {
            Ok(String::new())
        }
        mesh if mesh.is_istio() => Ok(rules::rules(&Plan::read(settings)?, family)),
        _ => meshes::rules(settings, family),
    }
}

fn write(place: &ExecContext<'_>, program: &str, rules: &str) -> Result<()> {
    let Output { status, stderr, .. } =
        finish(&mut place.command(Path::new(program))?, rules, LIMIT)?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{program}: {said}\n{rules}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_annotations::{
        EXCLUDE_INBOUND_PORTS, EXCLUDE_INTERFACES, EXCLUDE_OUTBOUND_RANGES, INCLUDE_OUTBOUND_PORTS,
        INCLUDE_OUTBOUND_RANGES, INTERCEPTION_MODE,
    };

    /// Fails with the rules if they are not those of the file. `ISTIO_OUTPUT` sees every protocol,
    /// and chains are there also if nothing leads to them: else rule for rule what Istio's own
    /// tests expect of it.
    fn same(settings: &PodAnnotations, family: &Family, golden: &str) {
        let rules = text(settings, family).unwrap();
        assert_eq!(rules, golden, "\n{rules}");
    }

    #[test]
    fn pod_without_annotations_has_istios_default_rules() {
        let golden = include_str!("golden/default.rules");
        same(&PodAnnotations::default(), &V4, golden);
    }

    #[test]
    fn queries_are_captured_for_any_resolver() {
        let settings = PodAnnotations {
            dns: true,
            ..PodAnnotations::default()
        };
        same(&settings, &V6, include_str!("golden/dns.rules"));
    }

    #[test]
    fn lists_come_in_the_order_of_istio() {
        let settings = PodAnnotations::default()
            .with(EXCLUDE_INTERFACES, "net1")
            .with(EXCLUDE_INBOUND_PORTS, "8080, 9000-9100")
            .with(EXCLUDE_OUTBOUND_RANGES, "192.0.2.0/24,fd00::/8")
            .with(INCLUDE_OUTBOUND_PORTS, "443")
            .with(INCLUDE_OUTBOUND_RANGES, "198.18.0.0/15");
        same(&settings, &V4, include_str!("golden/lists.rules"));
    }

    #[test]
    fn tproxy_marks_in_the_mangle_table() {
        let settings = PodAnnotations::default().with(INTERCEPTION_MODE, "TPROXY");
        same(&settings, &V4, include_str!("golden/tproxy.rules"));
    }
}
