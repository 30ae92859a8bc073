//! The configuration file: the daemon's behavior.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sluice_api::owned;

use super::metrics_address::MetricsAddress;
use crate::{
    bpf::RawSockets,
    kube::daemonset,
    log::LogFilter,
    pods::{
        Acceleration, FamilyChoice, IstioValues, LinkerdValues, Mesh, MeshError, Meshes,
        MissingAnnotations, NodeValues, OnEnrol, OnExit, Selection,
    },
};

/// The file that is read if none is named, and if it exists.
pub(crate) const DEFAULT: &str = "/etc/sluice/sluiced.toml";

/// The daemon's behavior. Every key has a default; an unknown key is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Config {
    /// The log filter, unless `--log` sets one.
    pub(crate) log: LogFilter,
    /// The address at which metrics are served over HTTP, unless `--metrics-address` sets one.
    pub(crate) metrics_address: Option<MetricsAddress>,
    /// Whether metrics have series for single Pods.
    pub(crate) pod_metrics: bool,
    /// Whether a refused Pod gets an Event in the API server.
    pub(crate) pod_events: bool,
    /// Whether the data path stays when the daemon stops.
    pub(crate) on_exit: OnExit,
    /// The fate of a Pod's connections from before its enrollment.
    pub(crate) on_enrol: OnEnrol,
    /// The connections that are accelerated.
    pub(crate) acceleration: Acceleration,
    /// The mesh of the Pods: the name of a preset, or of one of `meshes`.
    pub(crate) mesh: String,
    /// Further meshes.
    pub(crate) meshes: Meshes,
    /// The policy for a Pod whose annotations are available neither from the runtime nor from the
    /// API server.
    pub(crate) missing_annotations: MissingAnnotations,
    /// The source of the proxies' user.
    pub(crate) proxy_user: ProxyUser,
    /// The redirected address families.
    pub(crate) families: FamilyChoice,
    /// Whether DNS queries are captured once the proxy listens for them; by default as the mesh
    /// does.
    pub(crate) dns_capture: Option<bool>,
    /// Kubernetes namespaces whose Pods are not intercepted.
    pub(crate) excluded_namespaces: Vec<String>,
    /// Settings of Istio for all Pods.
    pub(crate) istio: IstioValues,
    /// Settings of Linkerd for all Pods.
    pub(crate) linkerd: LinkerdValues,
    /// Raw IP sockets in meshed Pods.
    pub(crate) raw_sockets: RawSockets,
    /// Istio's ambient mode; only for the mesh `ambient`.
    pub(crate) ambient: Ambient,
    /// The connection to the API server; by default the service account of the daemon's Pod.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The `DaemonSet` that runs the daemon on each node. After its deletion, the stopping daemon
    /// is the last one: it removes the data path, regardless of `on-exit`.
    pub(crate) daemon_set: Option<daemonset::Name>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: LogFilter::default(),
            metrics_address: None,
            pod_metrics: true,
            pod_events: false,
            on_exit: OnExit::default(),
            on_enrol: OnEnrol::default(),
            acceleration: Acceleration::default(),
            mesh: "istio".to_owned(),
            meshes: Meshes::new(),
            missing_annotations: MissingAnnotations::default(),
            proxy_user: ProxyUser::default(),
            families: FamilyChoice::default(),
            dns_capture: None,
            excluded_namespaces: Vec::new(),
            istio: IstioValues::default(),
            linkerd: LinkerdValues::default(),
            raw_sockets: RawSockets::default(),
            ambient: Ambient::default(),
            kubeconfig: None,
            daemon_set: None,
        }
    }
}

/// The source of the user of a Pod's proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ProxyUser {
    /// The mesh's description, unless an annotation overrides it.
    #[default]
    Mesh,
    /// The security context of the sidecar's container, or of the Pod: the daemon gets every Pod
    /// with a sidecar from the API server. `OpenShift` assigns uids per namespace.
    PodSpec,
}

/// Settings of Istio's ambient mode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Ambient {
    /// The agent that enrolls Pods and serves ztunnel.
    pub(crate) node_agent: NodeAgent,
    /// The socket that ztunnel connects to (its `INPOD_UDS`).
    pub(crate) ztunnel_socket: PathBuf,
    /// Kubernetes namespaces whose Pods are never enrolled.
    pub(crate) excluded_namespaces: Vec<String>,
}

impl Default for Ambient {
    fn default() -> Self {
        Self {
            node_agent: NodeAgent::default(),
            ztunnel_socket: "/var/run/ztunnel/ztunnel.sock".into(),
            excluded_namespaces: vec!["kube-system".to_owned()],
        }
    }
}

/// The agent of ambient mode on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeAgent {
    /// The daemon: the label `istio.io/dataplane-mode` of a Pod or its namespace enrolls the Pod.
    #[default]
    Sluice,
    /// istio-cni: its annotation `ambient.istio.io/redirection` enrolls the Pod.
    IstioCni,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The content is invalid.
    #[error("the configuration {} is invalid, line {line}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem, with the accepted values.
        problem: String,
    },
}

impl Config {
    /// The settings of the mesh for all Pods.
    pub(crate) fn values(&self) -> NodeValues {
        NodeValues {
            families: self.families,
            dns_capture: self.dns_capture,
            excluded_namespaces: self.excluded_namespaces.clone(),
            istio: self.istio.clone(),
            linkerd: self.linkerd.clone(),
        }
    }

    /// Reads `named`, which must exist, or the default file, which may be absent. A file that
    /// another user can change is refused: it decides which Pods are intercepted.
    pub(crate) fn read(named: Option<&Path>) -> Result<Self, Error> {
        let path = named.unwrap_or(Path::new(DEFAULT));
        let read = owned::file(path).and_then(io::read_to_string);
        let text = match read {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(source) => {
                return Err(Error::Read {
                    path: path.into(),
                    source,
                });
            }
        };
        toml::from_str(&text).map_err(|error| {
            // The error's own text is a drawing of several lines.
            let start = error.span().map_or(0, |span| span.start);
            Error::Parse {
                path: path.into(),
                line: text
                    .bytes()
                    .take(start)
                    .filter(|byte| *byte == b'\n')
                    .count()
                    + 1,
                problem: error.message().lines().collect::<Vec<_>>().join(" "),
            }
        })
    }

    /// The mesh of a name, or the configured one.
    ///
    /// # Errors
    ///
    /// As [`Mesh::choose`].
    pub(crate) fn choose_mesh(&self, name: Option<&str>) -> Result<&'static Mesh, MeshError> {
        let selection = match self.ambient.node_agent {
            NodeAgent::IstioCni => Selection::Annotation,
            NodeAgent::Sluice => Selection::Labels {
                excluded_namespaces: self.ambient.excluded_namespaces.clone(),
            },
        };
        let name = name.unwrap_or(&self.mesh);
        Mesh::choose(name, self.meshes.clone(), self.values(), selection)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(text: &str) -> Result<Config, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Config::read(Some(file.path()))
    }

    #[test]
    fn an_empty_file_yields_the_defaults() {
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn named_configuration_file_must_exist() {
        let missing = Config::read(Some(Path::new("/nowhere/sluiced.toml")));
        assert!(matches!(missing, Err(Error::Read { .. })));
    }

    #[test]
    fn unknown_keys_are_rejected_with_suggestions() {
        for (text, expected) in [
            ("on-exti = \"keep\"", "on-exit"),
            ("on-exit = \"leave\"", "`keep` or `detach`"),
            ("log = \"inof\"", "'inof' is neither a level"),
            ("metrics-address = \"node\"", "IP:PORT or :PORT"),
        ] {
            let text = format!("mesh = \"istio\"\n{text}");
            let problem = read(&text).unwrap_err().to_string();
            assert!(problem.contains("is invalid, line 2: "), "{problem}");
            assert!(problem.contains(expected), "{problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
    }

    #[test]
    fn file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, accepted) in [(0o644, true), (0o646, false)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            file.as_file().set_permissions(permissions).unwrap();
            let read = Config::read(Some(file.path()));
            assert_eq!(read.is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn every_key_is_read() {
        let text =
            "on-exit = \"detach\"\nacceleration = \"all\"\ndaemon-set = \"kube-system/sluice\"";
        let daemon_config = read(text).unwrap();
        assert_eq!(daemon_config.on_exit, OnExit::Detach);
        assert_eq!(daemon_config.acceleration, Acceleration::All);
        assert!(daemon_config.daemon_set.is_some());
        let mine = "mesh = 'mine'\n[meshes.mine]\nuid = 7\noutbound-port = 1\ninbound-port = 2\n\
                    sidecar-annotation = 'mine/here'";
        let daemon_config = read(mine).unwrap();
        assert_eq!(
            (&*daemon_config.mesh, daemon_config.meshes["mine"].uid),
            ("mine", 7)
        );
    }
}
