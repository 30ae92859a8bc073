//! The descriptions of service meshes: their differences are data, not code.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;

use super::settings::{Families, InvalidValue, NodeValues, NodeWide, Ports};

/// The presets, in the configuration's format for further meshes.
const PRESETS: &str = include_str!("meshes.toml");

/// One mesh's sidecar, and its annotations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the configuration, and independent of the others"
)]
pub(crate) struct Mesh {
    /// Its name, for messages.
    #[serde(skip)]
    pub(crate) name: String,
    /// The proxy's user, if it identifies the proxy.
    #[serde(default = "no_id")]
    pub(crate) uid: u32,
    /// The proxy's group, if it identifies the proxy.
    #[serde(default = "no_id")]
    pub(crate) gid: u32,
    /// The proxy's port for connections of the application.
    pub(crate) outbound_port: u16,
    /// The proxy's port for connections to the Pod.
    pub(crate) inbound_port: u16,
    /// The proxy's port for DNS queries, if it can answer them.
    #[serde(default)]
    pub(crate) dns_port: u16,
    /// Whether DNS queries are captured, unless the Pod states otherwise. Only Pods of ambient mode can.
    #[serde(default = "yes")]
    pub(crate) dns_capture: bool,
    /// The port of inbound tunnels (HBONE), if any: its listener gets them directly.
    #[serde(default)]
    pub(crate) hbone_port: u16,
    /// Ports that the proxy itself serves; they are never intercepted.
    #[serde(default)]
    pub(crate) reserved_inbound_ports: Vec<u16>,
    /// Inbound ports that are excluded unless the Pod lists others.
    #[serde(default)]
    pub(crate) excluded_inbound: Vec<u16>,
    /// Outbound ports that are excluded unless the Pod lists others.
    #[serde(default)]
    pub(crate) excluded_outbound: Vec<u16>,
    /// Whether the proxy listens for the application's connections on `127.0.0.1` alone.
    #[serde(default)]
    pub(crate) proxy_listens_on_localhost_only: bool,
    /// Whether the proxy's calls to its own Pod are intercepted as inbound.
    #[serde(default = "yes")]
    pub(crate) hairpin: bool,
    /// The mark of the proxy's sockets, if it identifies the proxy: its processes may then be
    /// outside the Pod.
    #[serde(default)]
    pub(crate) mark: u32,
    /// The mask of the mark.
    #[serde(default)]
    pub(crate) mark_mask: u32,
    /// The mark of the proxy's connections to the application from the client's address; zero if
    /// the proxy does not keep that address. Where the Pod selects between `REDIRECT` and `TPROXY`,
    /// only `TPROXY` keeps it.
    #[serde(default)]
    pub(crate) source_mark: u32,
    /// Whether queries to resolvers within the Pod are not intercepted.
    #[serde(default)]
    pub(crate) bypass_local_dns: bool,
    /// Networks from which and to which nothing is intercepted.
    #[serde(default)]
    pub(crate) bypass_cidrs: Vec<IpNet>,
    /// Whether connections to loopback addresses other than `127.0.0.1`, or to the Pod's own
    /// address, are intercepted as well.
    #[serde(default)]
    pub(crate) loopback_to_proxy: bool,
    /// The families that the mesh's rules redirect.
    #[serde(default)]
    pub(crate) families: Families,
    /// The annotation of a Pod with a sidecar.
    pub(crate) sidecar_annotation: String,
    /// Annotations whose value disables interception. A label of that name has precedence.
    #[serde(default)]
    pub(crate) opt_out: BTreeMap<String, Values>,
    /// The injector, which implies further rules beyond this data.
    #[serde(default)]
    pub(crate) injector: Injector,
    /// The selection of the mesh's Pods.
    #[serde(skip)]
    pub(crate) selection: Selection,
    /// The name of the sidecar's container: a Pod without it has no sidecar.
    #[serde(default)]
    pub(crate) proxy_container: Option<String>,
    /// Annotations of ports that the proxy serves itself, and the port of a Pod without the
    /// annotation. Zero means none.
    #[serde(default)]
    pub(crate) reserved_ports: BTreeMap<String, u16>,
    /// Annotations with a strict prefix that do not affect interception.
    #[serde(default)]
    pub(crate) ignored: Vec<String>,
    /// The names of the supported annotations.
    #[serde(default)]
    pub(crate) annotations: Annotations,
    /// Annotations with one supported value.
    #[serde(default)]
    pub(crate) required_values: BTreeMap<String, String>,
    /// Strict prefixes: an unknown annotation with such a prefix rejects the Pod.
    #[serde(default)]
    pub(crate) strict_prefixes: Vec<String>,
    /// The configuration's part.
    #[serde(skip)]
    pub(crate) node: NodeWide,
}

/// The selection of a mesh's Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Selection {
    /// By the injector's annotation.
    #[default]
    Annotation,
    /// By the label `istio.io/dataplane-mode` of a Pod or its Kubernetes namespace, except in these
    /// namespaces.
    Labels {
        /// The excluded Kubernetes namespaces.
        excluded_namespaces: Vec<String>,
    },
}

/// Injectors with rules beyond a mesh's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Injector {
    /// Any other: the annotations state everything.
    #[default]
    Annotations,
    /// Istio's, for every template.
    Istio,
    /// The agent of Istio's ambient mode.
    Ambient,
    /// Linkerd's.
    Linkerd,
    /// Kuma's, with or without the whole redirection in one annotation.
    Kuma,
    /// Open Service Mesh's.
    Osm,
    /// Consul's.
    Consul,
}

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

/// Meshes by name.
pub(crate) type Meshes = BTreeMap<String, Mesh>;

/// A mesh cannot be selected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The presets are part of the binary.
    #[error("the built-in meshes are invalid")]
    Presets(#[from] toml::de::Error),
    /// No mesh has this name.
    #[error("mesh '{name}' is not known: there are {known}, and others need [meshes.NAME]")]
    Unknown {
        /// The name.
        name: String,
        /// The available meshes.
        known: String,
    },
    /// A setting for all Pods is invalid.
    #[error(transparent)]
    Value(#[from] InvalidValue),
    /// The description is invalid.
    #[error("[meshes.{name}]: {problem}")]
    Impossible {
        /// The name.
        name: String,
        /// The reason.
        problem: &'static str,
    },
}

impl Mesh {
    /// The mesh of a name: one of `own`, which may override a preset, or a preset. It lives as long
    /// as the process, because every Pod refers to it. `values` are the configuration's.
    ///
    /// # Errors
    ///
    /// If no mesh has the name, or its description is invalid.
    pub(crate) fn choose(
        name: &str,
        own: Meshes,
        values: NodeValues,
        labels: Selection,
    ) -> Result<&'static Self, Error> {
        let mut all: Meshes = toml::from_str(PRESETS)?;
        all.extend(own);
        let Some(mut mesh) = all.remove(name) else {
            let known: Vec<_> = all.into_keys().collect();
            return Err(Error::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
        name.clone_into(&mut mesh.name);
        mesh.node = match mesh.injector {
            Injector::Istio => NodeWide::of_istio(values)?,
            Injector::Linkerd => NodeWide::of_linkerd(values)?,
            _ => NodeWide::of(&values),
        };
        if mesh.injector == Injector::Ambient {
            mesh.selection = labels;
        }
        if let Some(problem) = mesh.problem() {
            let name = mesh.name;
            return Err(Error::Impossible { name, problem });
        }
        Ok(Box::leak(Box::new(mesh)))
    }

    fn problem(&self) -> Option<&'static str> {
        if self.inbound_port == 0 || self.outbound_port == 0 {
            return Some("'inbound-port' and 'outbound-port' must not be 0");
        }
        if self.inbound_port == self.outbound_port
            || [self.inbound_port, self.outbound_port].contains(&self.dns_port)
        {
            return Some("'inbound-port', 'outbound-port' and 'dns-port' must be different ports");
        }
        if self.uid == no_id() && self.gid == no_id() && self.mark_mask == 0 {
            return Some("one of 'uid', 'gid' and 'mark' with 'mark-mask' must identify the proxy");
        }
        if self.mark & !self.mark_mask != 0 {
            return Some("'mark' has bits that are not in 'mark-mask'");
        }
        if self.source_mark != 0 && self.source_mark == self.mark {
            return Some(
                "'source-mark' must differ from 'mark', which other connections carry, too",
            );
        }
        let bypass = !self.bypass_cidrs.is_empty() || self.annotations.exclude_sources.is_some();
        if bypass && self.annotations.exclude_interfaces.is_some() {
            return Some(
                "'exclude-interfaces' cannot be there beside 'bypass-cidrs' or 'exclude-sources'",
            );
        }
        (self.sidecar_annotation.is_empty())
            .then_some("'sidecar-annotation' must name an annotation")
    }

    /// Inbound ports that are excluded unless the Pod lists others.
    pub(crate) fn skip_inbound(&self) -> Ports {
        let ports = || single(&self.excluded_inbound);
        self.node.skip_inbound.clone().unwrap_or_else(ports)
    }

    /// Outbound ports that are excluded unless the Pod lists others.
    pub(crate) fn skip_outbound(&self) -> Ports {
        let ports = || single(&self.excluded_outbound);
        self.node.skip_outbound.clone().unwrap_or_else(ports)
    }

    /// The preset of a name.
    #[cfg(any(test, fuzzing))]
    #[expect(
        clippy::expect_used,
        reason = "for tests, and for what throws random input"
    )]
    pub(crate) fn preset(name: &str) -> &'static Self {
        Self::choose(
            name,
            Meshes::new(),
            NodeValues::default(),
            Selection::Annotation,
        )
        .expect("a preset")
    }
}

/// Single ports as ranges.
pub(crate) fn single(ports: &[u16]) -> Ports {
    ports.iter().map(|port| (*port, *port)).collect()
}

/// No socket has this id: `chown(2)` interprets it as "unchanged".
fn no_id() -> u32 {
    u32::MAX
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_known_to_the_plugin() {
        for name in ["istio", "linkerd", "kuma", "osm", "consul", "ambient"] {
            let mesh = Mesh::preset(name);
            assert_eq!(mesh.name, name);
            let marked = BTreeMap::from([(mesh.sidecar_annotation.clone(), "true".to_owned())]);
            assert!(!sluice_api::has_no_sidecar_annotation(&marked), "{name}");
        }
    }

    #[test]
    fn a_mesh_of_ones_own_needs_few_words_and_may_replace_a_preset() {
        let words = "[istio]\nuid = 7\noutbound-port = 1\ninbound-port = 2\nsidecar-annotation = 'mine/here'";
        let own = Mesh::choose(
            "istio",
            toml::from_str(words).unwrap(),
            NodeValues::default(),
            Selection::Annotation,
        )
        .unwrap();
        assert_eq!((own.uid, own.gid, own.hairpin), (7, u32::MAX, true));
    }

    #[test]
    fn invalid_meshes_are_rejected() {
        let unknown = Mesh::choose(
            "isto",
            Meshes::new(),
            NodeValues::default(),
            Selection::Annotation,
        )
        .unwrap_err();
        assert!(unknown.to_string().contains("istio, kuma"), "{unknown}");
        for (ports, expected) in [
            ("outbound-port = 0\ninbound-port = 2", "must not be 0"),
            ("outbound-port = 2\ninbound-port = 2", "different"),
            (
                "outbound-port = 1\ninbound-port = 2\ndns-port = 2",
                "different",
            ),
        ] {
            let words = format!("[mine]\nuid = 7\n{ports}\nsidecar-annotation = 'mine/here'");
            let own = toml::from_str(&words).unwrap();
            let values = NodeValues::default();
            let refused = Mesh::choose("mine", own, values, Selection::Annotation).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        assert!(toml::from_str::<Meshes>("[mine]\nuids = 7").is_err());
    }

    #[test]
    fn configuration_page_lists_every_key_of_a_mesh() {
        use crate::docs::{keys, listed, page, section};
        let page = page("reference/configuration.md");
        assert_eq!(listed(&section(&page, "## Meshes")), keys::<Mesh>());
        let names = section(&page, "## Annotation names");
        assert_eq!(listed(&names), keys::<Annotations>());
    }

    #[test]
    fn annotations_page_lists_every_annotation_of_the_presets() {
        let page = crate::docs::page("reference/annotations.md");
        let presets: toml::Table = PRESETS.parse().unwrap();
        let mut names = vec![crate::pods::acceleration::ANNOTATION.to_owned()];
        presets.into_iter().for_each(|one| collect(one, &mut names));
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }

    /// Every key and value that looks like an annotation's name or prefix.
    fn collect((key, value): (String, toml::Value), names: &mut Vec<String>) {
        let mut note = |text: String| {
            if text.contains('/') && text.parse::<IpNet>().is_err() {
                names.push(text);
            }
        };
        note(key);
        match value {
            toml::Value::String(text) => note(text),
            toml::Value::Table(table) => table.into_iter().for_each(|one| collect(one, names)),
            toml::Value::Array(items) => items
                .into_iter()
                .for_each(|item| collect((String::new(), item), names)),
            _ => {}
        }
    }
}
