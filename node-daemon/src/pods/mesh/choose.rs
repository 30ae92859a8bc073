//! The mesh that the configuration selects.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Injector, Mesh, Selection, no_id};
use crate::pods::settings::{InvalidValue, NodeValues, NodeWide};

/// The presets, in the configuration's format for further meshes.
const PRESETS: &str = include_str!("../meshes.toml");

/// The source addresses that Istio's agent gives to the node's connections. Without that agent, only
/// another host would use them.
const AGENT_PROBES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 7, 127), 32)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(
            0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
        ),
        128,
    )),
];

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
        if mesh.bypasses_node() {
            mesh.bypass_cidrs
                .retain(|cidr| !AGENT_PROBES.contains(cidr));
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

    /// Whether connections of processes in the node's netns are not intercepted: the daemon is the agent
    /// of ambient mode, and Istio's agent lets them pass, too.
    pub(crate) fn bypasses_node(&self) -> bool {
        matches!(self.selection, Selection::Labels { .. })
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

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use crate::pods::mesh::Annotations;

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
    fn custom_mesh_needs_four_keys_and_replaces_presets() {
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
