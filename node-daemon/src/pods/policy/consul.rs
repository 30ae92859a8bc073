//! Consul's Pods: the injector states the whole redirection as JSON, for its CNI plugin in an
//! annotation, and without that plugin in the environment of its init container.

use serde::Deserialize;

use super::{Error, Families, Inbound, PodPolicy, parse, subject::PodAnnotations};

const TRANSPARENT_PROXY: &str = "consul.hashicorp.com/transparent-proxy-status";
const CONFIG: &str = "consul.hashicorp.com/redirect-traffic-config";
const DUAL_STACK: &str = "consul.hashicorp.com/dual-stack";
const GATEWAY: &str = "consul.hashicorp.com/gateway-kind";
/// The status that the injector of the resource API writes.
const MESH_INJECT: &str = "consul.hashicorp.com/mesh-inject-status";
const INIT: &str = "consul-connect-inject-init";
const INIT_CONFIG: &str = "CONSUL_REDIRECT_TRAFFIC_CONFIG";

/// The content of the annotation: the settings of the `iptables` package of Consul's SDK.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
struct Config {
    #[serde(rename = "ConsulDNSIP")]
    dns_ip: Option<String>,
    #[serde(rename = "ConsulDNSPort")]
    dns_port: u16,
    #[serde(rename = "ProxyUserID")]
    proxy_user: Option<String>,
    proxy_inbound_port: u16,
    proxy_outbound_port: u16,
    exclude_inbound_ports: Option<Vec<String>>,
    exclude_outbound_ports: Option<Vec<String>>,
    #[serde(rename = "ExcludeOutboundCIDRs")]
    exclude_outbound_cidrs: Option<Vec<String>>,
    #[serde(rename = "ExcludeUIDs")]
    exclude_uids: Option<Vec<String>>,
    #[serde(rename = "NetNS")]
    _netns: serde::de::IgnoredAny,
    #[serde(rename = "IptablesProvider")]
    _provider: serde::de::IgnoredAny,
}

/// Why a Pod is not intercepted, if so.
pub(super) fn not_intercepted(pod: &PodAnnotations<'_>) -> Option<&'static str> {
    if pod.annotations.contains_key(GATEWAY) {
        return Some("it is a gateway of Consul's");
    }
    if !is_set(pod, &pod.mesh.sidecar_annotation) && !is_injected(pod) {
        return Some("no sidecar annotation");
    }
    (!is_set(pod, TRANSPARENT_PROXY)).then_some("Consul's transparent proxy is off")
}

/// Whether the injector of the resource API changed the Pod.
pub(super) fn is_injected(pod: &PodAnnotations<'_>) -> bool {
    is_set(pod, MESH_INJECT)
}

fn is_set(pod: &PodAnnotations<'_>, key: &str) -> bool {
    pod.annotation(key).is_some_and(|value| !value.is_empty())
}

/// Applies the settings that the injector states for the CNI plugin, or else for the init container.
pub(super) fn adjust(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    if pod.annotation(DUAL_STACK) != Some("true") {
        policy.families = Families::Ipv4;
    }
    let of_init = || pod.container(INIT)?.env.get(INIT_CONFIG);
    let stated = pod.annotations.get(CONFIG).or_else(of_init);
    let Some(text) = stated else {
        return Ok(());
    };
    let config: Config = serde_json::from_str(text).map_err(|error| Error::Malformed {
        key: CONFIG,
        problem: error.to_string(),
    })?;
    let all = |items: &Option<Vec<String>>| items.as_deref().unwrap_or_default().join(",");
    if let Some(user) = &config.proxy_user {
        policy.uid = parse::parse_id(CONFIG, user)?;
    }
    if config.proxy_inbound_port != 0 {
        policy.ports.inbound = config.proxy_inbound_port;
    }
    if config.proxy_outbound_port != 0 {
        policy.ports.outbound = config.proxy_outbound_port;
    }
    policy.inbound = Inbound::Exclude(parse::ports(CONFIG, &all(&config.exclude_inbound_ports))?);
    policy.excluded_outbound = parse::ports(CONFIG, &all(&config.exclude_outbound_ports))?;
    policy.excluded_networks = parse::addresses(CONFIG, &all(&config.exclude_outbound_cidrs))?;
    policy.ports.dns = match config.dns_ip.as_deref() {
        None | Some("") => 0,
        Some(_) if config.dns_port == 0 => 8600,
        Some(_) => config.dns_port,
    };
    // A further excluded user is identified by its group, which has the same number.
    match config.exclude_uids.as_deref().unwrap_or_default() {
        [] => policy.gid = u32::MAX,
        [one] => policy.gid = parse::parse_id(CONFIG, one)?,
        several => {
            return Err(Error::Unsupported {
                key: format!("{CONFIG}, ExcludeUIDs"),
                value: several.join(","),
                allowed: "one user beside the proxy's",
            });
        }
    }
    Ok(())
}
