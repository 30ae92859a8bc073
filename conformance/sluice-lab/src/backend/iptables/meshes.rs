//! The rules of other meshes, as their documents have them. They share what Istio's have not: few
//! annotations, and one owner or mark that identifies the proxy.

use anyhow::Result;

use super::{
    plan::{self, Ports, Range},
    rules::{Family, Table},
};
use crate::{
    mesh::{self, Mesh},
    pod_annotations::{self, PodAnnotations},
};

/// The input of `iptables-restore`; none where a mesh has no rules for a family.
pub(super) fn rules(settings: &PodAnnotations, family: &Family) -> Result<String> {
    match settings.mesh {
        Mesh::Linkerd => linkerd(settings, family),
        Mesh::Kuma => kuma(settings, family),
        Mesh::Osm if family.v4 => osm(settings),
        Mesh::Ambient => Ok(ambient(settings, family)),
        Mesh::Osm | Mesh::Istio | Mesh::IstioGroups | Mesh::IstioOtherGroups => Ok(String::new()),
    }
}

fn table(settings: &PodAnnotations) -> Table {
    let mesh::Ports { outbound, inbound } = settings.mesh.ports();
    let mut table = Table::new("nat", &["TO_INBOUND", "TO_OUTBOUND", "ENTERS", "LEAVES"]);
    for (chain, port) in [("TO_INBOUND", inbound), ("TO_OUTBOUND", outbound)] {
        table.add(format!("{chain} -p tcp -j REDIRECT --to-ports {port}"));
    }
    table.add("PREROUTING -p tcp -j ENTERS");
    table.add("OUTPUT -j LEAVES");
    table
}

fn leave(table: &mut Table, chain: &str, ports: &[Ports]) {
    for Ports(ports) in ports {
        table.add(format!("{chain} -p tcp --dport {ports} -j RETURN"));
    }
}

/// `linkerd2-proxy-init`.
fn linkerd(settings: &PodAnnotations, family: &Family) -> Result<String> {
    let mut table = table(settings);
    let listed = |key, default: &[&str]| match settings.get(key) {
        Some(_) => plan::ports(settings, key),
        None => Ok(default.iter().map(|port| Ports((*port).into())).collect()),
    };
    leave(
        &mut table,
        "ENTERS",
        &["4190", "4191"].map(|port| Ports(port.into())),
    );
    let inbound = listed(pod_annotations::SKIP_INBOUND_PORTS, &["4567", "4568"])?;
    leave(&mut table, "ENTERS", &inbound);
    let skipped = settings
        .get(pod_annotations::SKIP_SUBNETS)
        .unwrap_or_default();
    let skipped = skipped.split(',').filter(|one| !one.is_empty());
    for network in skipped.filter(|one| family.v4 != one.contains(':')) {
        table.add(format!("ENTERS -s {network} -j RETURN"));
    }
    table.add("ENTERS -p tcp -j TO_INBOUND");
    table.add(format!(
        "LEAVES -m owner --uid-owner {} -j RETURN",
        settings.uid
    ));
    table.add("LEAVES -o lo -j RETURN");
    let outbound = listed(pod_annotations::SKIP_OUTBOUND_PORTS, &["4567", "4568"])?;
    leave(&mut table, "LEAVES", &outbound);
    table.add("LEAVES -p tcp -j TO_OUTBOUND");
    Ok(table.end())
}

/// `kumactl install transparent-proxy`.
fn kuma(settings: &PodAnnotations, family: &Family) -> Result<String> {
    let Family {
        loopback,
        passthrough,
        ..
    } = family;
    let mut table = table(settings);
    let inbound = plan::ports(settings, pod_annotations::KUMA_EXCLUDE_INBOUND_PORTS)?;
    leave(&mut table, "ENTERS", &inbound);
    table.add("ENTERS -p tcp -j TO_INBOUND");
    let proxy = format!("-m owner --uid-owner {}", settings.uid);
    let others = format!("-m owner ! --uid-owner {}", settings.uid);
    let resolver = "REDIRECT --to-ports 15053";
    let not_query = if settings.dns {
        "-p tcp ! --dport 53"
    } else {
        "-p tcp"
    };
    if settings.dns {
        table.add(format!("LEAVES -p udp --dport 53 {proxy} -j RETURN"));
        table.add(format!("LEAVES -p udp --dport 53 -j {resolver}"));
    }
    let outbound = plan::ports(settings, pod_annotations::KUMA_EXCLUDE_OUTBOUND_PORTS)?;
    leave(&mut table, "LEAVES", &outbound);
    table.add(format!("LEAVES -s {passthrough} -o lo -j RETURN"));
    table.add(format!(
        "LEAVES {not_query} -o lo ! -d {loopback} {proxy} -j TO_INBOUND"
    ));
    table.add(format!("LEAVES {not_query} -o lo {others} -j RETURN"));
    table.add(format!("LEAVES {proxy} -j RETURN"));
    if settings.dns {
        table.add(format!("LEAVES -p tcp --dport 53 -j {resolver}"));
    }
    table.add(format!("LEAVES -d {loopback} -j RETURN"));
    table.add("LEAVES -p tcp -j TO_OUTBOUND");
    Ok(table.end())
}

/// The init container of Open Service Mesh, which has IPv4 only.
fn osm(settings: &PodAnnotations) -> Result<String> {
    let mut table = table(settings);
    let own = ["15010", "15901", "15902", "15903", "15904"];
    leave(&mut table, "ENTERS", &own.map(|port| Ports(port.into())));
    let inbound = plan::ports(settings, pod_annotations::OSM_EXCLUDE_INBOUND_PORTS)?;
    leave(&mut table, "ENTERS", &inbound);
    table.add("ENTERS -p tcp -j TO_INBOUND");
    let outbound = plan::ports(settings, pod_annotations::OSM_EXCLUDE_OUTBOUND_PORTS)?;
    leave(&mut table, "LEAVES", &outbound);
    for Range { address, prefix } in plan::ranges(settings, pod_annotations::OSM_EXCLUDE_RANGES)? {
        table.add(format!("LEAVES -d {address}/{prefix} -j RETURN"));
    }
    let proxy = format!("-m owner --uid-owner {}", settings.uid);
    table.add(format!(
        "LEAVES -o lo ! -d 127.0.0.1/32 -p tcp {proxy} -j TO_INBOUND"
    ));
    table.add(format!(
        "LEAVES -o lo -m owner ! --uid-owner {} -j RETURN",
        settings.uid
    ));
    table.add(format!("LEAVES {proxy} -j RETURN"));
    table.add("LEAVES -d 127.0.0.1/32 -j RETURN");
    let included = plan::ranges(settings, pod_annotations::OSM_INCLUDE_RANGES)?;
    if included.is_empty() {
        table.add("LEAVES -p tcp -j TO_OUTBOUND");
    }
    for Range { address, prefix } in included {
        table.add(format!(
            "LEAVES -p tcp -d {address}/{prefix} -j TO_OUTBOUND"
        ));
    }
    Ok(table.end())
}

/// Istio's agent, in the network namespaces of ambient Pods.
fn ambient(settings: &PodAnnotations, family: &Family) -> String {
    let loopback = family.loopback;
    let probe = if family.v4 {
        "169.254.7.127"
    } else {
        "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
    };
    let not_own = "-m mark ! --mark 0x539/0xfff";
    let mut table = table(settings);
    table.add(format!("ENTERS -s {probe} -p tcp -j ACCEPT"));
    table.add(format!(
        "ENTERS ! -d {loopback} -p tcp ! --dport 15008 {not_own} -j TO_INBOUND"
    ));
    table.add(format!("LEAVES -d {probe} -p tcp -j ACCEPT"));
    if settings.dns {
        table.add(format!(
            "LEAVES ! -o lo -p udp {not_own} --dport 53 -j REDIRECT --to-ports 15053"
        ));
        table.add(format!(
            "LEAVES ! -d {loopback} -p tcp --dport 53 {not_own} -j REDIRECT --to-ports 15053"
        ));
    }
    table.add("LEAVES -p tcp -m mark --mark 0x111/0xfff -j ACCEPT");
    table.add(format!("LEAVES ! -d {loopback} -o lo -j ACCEPT"));
    table.add(format!(
        "LEAVES ! -d {loopback} -p tcp {not_own} -j TO_OUTBOUND"
    ));
    let nat = table.end();
    // What the proxy says on behalf of others is known by its connection.
    let mut table = Table::new("mangle", &["ENTERS", "LEAVES"]);
    table.add("PREROUTING -j ENTERS");
    table.add("OUTPUT -j LEAVES");
    table.add("ENTERS -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff");
    table.add("LEAVES -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark");
    table.end() + &nat
}
