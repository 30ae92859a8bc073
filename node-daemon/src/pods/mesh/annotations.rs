//! The names and values of annotations in the description of a mesh.

use serde::Deserialize;

/// One value, or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Values {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Values {
    /// Whether a text is one of the values.
    pub(crate) fn has(&self, text: &str) -> bool {
        match self {
            Self::One(value) => value == text,
            Self::Many(values) => values.iter().any(|value| value == text),
        }
    }
}

/// Names of annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Annotations {
    /// Intercepted inbound ports.
    pub(crate) include_inbound_ports: Option<String>,
    /// Excluded inbound ports.
    pub(crate) exclude_inbound_ports: Option<String>,
    /// Outbound ports that are intercepted regardless of the address.
    pub(crate) include_outbound_ports: Option<String>,
    /// Excluded outbound ports.
    pub(crate) exclude_outbound_ports: Option<String>,
    /// Intercepted destination networks.
    pub(crate) include_networks: Option<String>,
    /// Excluded destination networks.
    pub(crate) exclude_networks: Option<String>,
    /// Excluded source networks.
    pub(crate) exclude_sources: Option<String>,
    /// The proxy's port for connections to the Pod.
    pub(crate) inbound_port: Option<String>,
    /// The proxy's port for connections of the application.
    pub(crate) outbound_port: Option<String>,
    /// A further inbound port that is not intercepted.
    pub(crate) status_port: Option<String>,
    /// `REDIRECT` or `TPROXY`.
    pub(crate) interception_mode: Option<String>,
    /// Excluded interfaces.
    pub(crate) exclude_interfaces: Option<String>,
    /// Virtual interfaces, whose connections the proxy gets.
    pub(crate) virtual_interfaces: Option<String>,
    /// The earlier name of that annotation.
    pub(crate) virtual_interfaces_earlier: Option<String>,
    /// The proxy's user.
    pub(crate) proxy_uid: Option<String>,
    /// The proxy's group.
    pub(crate) proxy_gid: Option<String>,
}

impl Annotations {
    /// Whether an annotation is one of these.
    pub(crate) fn has(&self, key: &str) -> bool {
        let all = [
            &self.include_inbound_ports,
            &self.exclude_inbound_ports,
            &self.include_outbound_ports,
            &self.exclude_outbound_ports,
            &self.include_networks,
            &self.exclude_networks,
            &self.exclude_sources,
            &self.inbound_port,
            &self.outbound_port,
            &self.status_port,
            &self.interception_mode,
            &self.exclude_interfaces,
            &self.virtual_interfaces,
            &self.virtual_interfaces_earlier,
            &self.proxy_uid,
            &self.proxy_gid,
        ];
        all.iter().any(|name| name.as_deref() == Some(key))
    }
}
