//! Settings for all Pods of the node: what a mesh's operators state in its values or in the
//! environment of its CNI plugin, and no Pod repeats. Pure.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{Error as PolicyError, Ports, parse};

/// Every group.
const ALL: &str = "*";

/// The address families that are redirected in a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Families {
    /// IPv4 and IPv6.
    #[default]
    Both,
    /// IPv4: IPv6 bypasses the proxy in both directions.
    Ipv4,
    /// IPv4 in a Pod with an IPv4 address, both in a Pod without. So are Istio's rules, and so
    /// listens its proxy, without dual stack.
    FirstAddress,
}

/// The choice of families for all Pods of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FamilyChoice {
    /// Those of the mesh's own rules, in each Pod.
    #[default]
    AsTheProxyListens,
    /// IPv4 and IPv6, independent of the mesh's rules.
    Both,
    /// IPv4, independent of the mesh's rules.
    Ipv4,
}

impl FamilyChoice {
    /// The families of a Pod for which the mesh's rules have `own`.
    pub(crate) fn or(self, own: Families) -> Families {
        match self {
            Self::AsTheProxyListens => own,
            Self::Both => Families::Both,
            Self::Ipv4 => Families::Ipv4,
        }
    }

    /// The name in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AsTheProxyListens => "as-the-proxy-listens",
            Self::Both => "both",
            Self::Ipv4 => "ipv4",
        }
    }
}

/// The groups whose processes are redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum OwnerGroups {
    /// All.
    #[default]
    All,
    /// Only these.
    Only(BTreeSet<u32>),
    /// All but these.
    Except(BTreeSet<u32>),
}

/// The environment of Istio's CNI plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct IstioValues {
    /// Whether the mesh has dual stack (`ISTIO_DUAL_STACK`).
    pub(crate) dual_stack: bool,
    /// Only the connections of these groups are redirected (`ISTIO_OUTBOUND_OWNER_GROUPS`).
    pub(crate) include_owner_groups: Option<String>,
    /// The connections of these groups are not redirected
    /// (`ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE`).
    pub(crate) exclude_owner_groups: Option<String>,
    /// The loopback addresses of the application (`ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`).
    pub(crate) outbound_loopback_cidr: Option<Ipv4Net>,
}

/// Linkerd's values for its init container and its CNI plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    clippy::struct_field_names,
    reason = "the keys are Linkerd's annotations"
)]
pub(crate) struct LinkerdValues {
    /// `ignoreInboundPorts`, unless the Pod lists others.
    pub(crate) skip_inbound_ports: Option<String>,
    /// `ignoreOutboundPorts`, unless the Pod lists others.
    pub(crate) skip_outbound_ports: Option<String>,
    /// `skipSubnets`, unless the Pod lists others.
    pub(crate) skip_subnets: Option<String>,
}

/// The configuration's part of a mesh's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeValues {
    /// The families of every Pod.
    pub(crate) families: FamilyChoice,
    /// Whether queries are captured once the proxy listens for them; `None`: as the mesh does.
    pub(crate) dns_capture: Option<bool>,
    /// Kubernetes namespaces whose Pods are not intercepted.
    pub(crate) excluded_namespaces: Vec<String>,
    /// Istio's.
    pub(crate) istio: IstioValues,
    /// Linkerd's.
    pub(crate) linkerd: LinkerdValues,
}

/// Settings of the node's mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeWide {
    /// The families of every Pod.
    pub(crate) families: FamilyChoice,
    /// Whether queries are captured once the proxy listens for them.
    pub(crate) no_dns_capture: bool,
    /// Kubernetes namespaces whose Pods are not intercepted.
    pub(crate) excluded_namespaces: Vec<String>,
    /// Whether Istio has dual stack.
    pub(crate) dual_stack: bool,
    /// The redirected groups.
    pub(crate) owner_groups: OwnerGroups,
    /// The loopback addresses of the application, if not `127.0.0.1` alone.
    pub(crate) loopback: Option<Ipv4Net>,
    /// Inbound ports that are excluded in place of the mesh's.
    pub(crate) skip_inbound: Option<Ports>,
    /// Outbound ports that are excluded in place of the mesh's.
    pub(crate) skip_outbound: Option<Ports>,
    /// Excluded source networks.
    pub(crate) skip_sources: Vec<IpNet>,
}

/// A value of the configuration is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration key {key}: {problem}")]
pub(crate) struct InvalidValue {
    key: &'static str,
    problem: String,
}

impl NodeWide {
    /// The settings of any mesh. Values of Istio and Linkerd do not count.
    pub(crate) fn of(values: &NodeValues) -> Self {
        Self {
            families: values.families,
            no_dns_capture: values.dns_capture == Some(false),
            excluded_namespaces: values.excluded_namespaces.clone(),
            ..Self::default()
        }
    }

    /// The settings of Istio.
    ///
    /// # Errors
    ///
    /// [`InvalidValue`] names the key, its value and what is allowed.
    pub(crate) fn of_istio(values: NodeValues) -> Result<Self, InvalidValue> {
        let node = Self::of(&values);
        let IstioValues {
            dual_stack,
            include_owner_groups,
            exclude_owner_groups,
            outbound_loopback_cidr,
        } = values.istio;
        if let Some(cidr) = outbound_loopback_cidr
            && (!cidr.addr().is_loopback() || cidr.prefix_len() < 8)
        {
            return Err(InvalidValue {
                key: "istio.outbound-loopback-cidr",
                problem: format!("'{cidr}' is not a network within 127.0.0.0/8"),
            });
        }
        let include = include_owner_groups.filter(|list| list.trim() != ALL);
        let include = groups("istio.include-owner-groups", include.as_deref())?;
        let exclude = groups(
            "istio.exclude-owner-groups",
            exclude_owner_groups.as_deref(),
        )?;
        let owner_groups = match (include.is_empty(), exclude.is_empty()) {
            (true, true) => OwnerGroups::All,
            (false, true) => OwnerGroups::Only(include),
            (true, false) => OwnerGroups::Except(exclude),
            (false, false) => {
                return Err(InvalidValue {
                    key: "istio.exclude-owner-groups",
                    problem: "it cannot be there beside 'include-owner-groups'".to_owned(),
                });
            }
        };
        Ok(Self {
            dual_stack,
            owner_groups,
            loopback: outbound_loopback_cidr,
            ..node
        })
    }

    /// The settings of Linkerd.
    ///
    /// # Errors
    ///
    /// As [`NodeWide::of_istio`].
    pub(crate) fn of_linkerd(values: NodeValues) -> Result<Self, InvalidValue> {
        let node = Self::of(&values);
        let values = values.linkerd;
        let ports = |key: &'static str, list: &Option<String>| {
            let list = list.as_deref();
            list.map(|list| parse::ports(key, list).map_err(|error| invalid(key, error)))
                .transpose()
        };
        let subnets = "linkerd.skip-subnets";
        let list = values.skip_subnets.as_deref().unwrap_or_default();
        Ok(Self {
            skip_inbound: ports("linkerd.skip-inbound-ports", &values.skip_inbound_ports)?,
            skip_outbound: ports("linkerd.skip-outbound-ports", &values.skip_outbound_ports)?,
            skip_sources: parse::networks(subnets, list)
                .map_err(|error| invalid(subnets, error))?,
            ..node
        })
    }
}

/// A comma-separated list of numbers.
fn groups(key: &'static str, list: Option<&str>) -> Result<BTreeSet<u32>, InvalidValue> {
    let allowed = "a group's number";
    let read = |item: &str| parse::parse_id(key, item).ok();
    let list = list.unwrap_or_default();
    parse::items(key, list, allowed, read).map_err(|error| invalid(key, error))
}

fn invalid(key: &'static str, error: PolicyError) -> InvalidValue {
    let problem = match error {
        PolicyError::Item { item, allowed, .. } => format!("'{item}' is not {allowed}"),
        other => other.to_string(),
    };
    InvalidValue { key, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn istio(text: &str) -> Result<NodeWide, InvalidValue> {
        let values = NodeValues {
            istio: toml::from_str(text).unwrap(),
            ..NodeValues::default()
        };
        NodeWide::of_istio(values)
    }

    #[test]
    fn values_of_another_mesh_have_no_effect() {
        let values = NodeValues {
            linkerd: toml::from_str("skip-inbound-ports = '25'").unwrap(),
            ..NodeValues::default()
        };
        let istio = NodeWide::of_istio(values.clone()).unwrap();
        assert_eq!(istio, NodeWide::default());
        let linkerd = NodeWide::of_linkerd(values).unwrap();
        assert_eq!(linkerd.skip_inbound, Some([(25, 25)].into()));
    }

    #[test]
    fn owner_groups_are_included_or_excluded() {
        let node = istio("include-owner-groups = '101, 202'").unwrap();
        assert_eq!(node.owner_groups, OwnerGroups::Only([101, 202].into()));
        let node = istio("include-owner-groups = '*'\nexclude-owner-groups = '888'").unwrap();
        assert_eq!(node.owner_groups, OwnerGroups::Except([888].into()));
        let both = istio("include-owner-groups = '1'\nexclude-owner-groups = '2'").unwrap_err();
        assert!(both.to_string().contains("exclude-owner-groups"), "{both}");
    }

    #[test]
    fn invalid_values_are_named() {
        let refused = istio("include-owner-groups = '101,java'").unwrap_err();
        assert!(refused.to_string().contains("'java'"), "{refused}");
        let refused = istio("outbound-loopback-cidr = '10.0.0.0/8'").unwrap_err();
        assert!(refused.to_string().contains("127.0.0.0/8"), "{refused}");
        for (key, list) in [
            ("skip-inbound-ports", "25,smtp"),
            ("skip-subnets", "cluster"),
        ] {
            let linkerd = toml::from_str(&format!("{key} = '{list}'")).unwrap();
            let values = NodeValues {
                linkerd,
                ..NodeValues::default()
            };
            let refused = NodeWide::of_linkerd(values).unwrap_err();
            assert!(refused.to_string().contains(key), "{refused}");
        }
    }

    #[test]
    fn node_choice_overrides_the_mesh() {
        for (choice, expected) in [
            (FamilyChoice::AsTheProxyListens, Families::FirstAddress),
            (FamilyChoice::Both, Families::Both),
            (FamilyChoice::Ipv4, Families::Ipv4),
        ] {
            assert_eq!(choice.or(Families::FirstAddress), expected);
        }
    }
}
