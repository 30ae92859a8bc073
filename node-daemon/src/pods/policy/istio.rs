//! Istio's settings beyond single annotations: the Pod's template and the arguments of its init
//! container. The decisions match those of istio-cni.

use sluice_api::{Container, ISTIO_STATUS, not_redirected_by_istio};

use super::{
    Annotations, Error, Families, Inbound, PodPolicy, Ports,
    parse::{port, without_empty_items},
    subject::PodAnnotations,
};

const MODE: &str = "sidecar.istio.io/interceptionMode";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const AMBIENT: &str = "ambient";
const DUAL_STACK: &str = "ISTIO_DUAL_STACK";
const PROXY: &str = "istio-proxy";
const INIT: &str = "istio-init";
const VALIDATION: &str = "istio-validation";

/// Why a Pod with `sidecar.istio.io/status` is not intercepted, if so.
pub(super) fn not_intercepted(pod: &PodAnnotations<'_>) -> Option<&'static str> {
    if pod.annotation(MODE) == Some("NONE") {
        return Some("its interception mode is NONE");
    }
    let Some(proxy) = pod.container(PROXY) else {
        return not_redirected_by_istio(pod.annotations);
    };
    if proxy.args.is_empty() && proxy.env.is_empty() {
        return not_redirected_by_istio(pod.annotations);
    }
    if is_true(proxy.env.get("DISABLE_ENVOY")) {
        return Some("its sidecar runs no Envoy: a proxyless gRPC Pod");
    }
    if proxy
        .env
        .get("ISTIO_META_INTERCEPTION_MODE")
        .is_some_and(|mode| mode == "NONE")
    {
        return Some("its interception mode is NONE");
    }
    match &*proxy.args {
        [first, kind, ..] if first == "proxy" && kind != "sidecar" => {
            Some("its proxy is no sidecar: a gateway or a waypoint")
        }
        _ => None,
    }
}

/// Why a Pod of ambient mode is not intercepted, if so.
pub(super) fn not_ambient(pod: &PodAnnotations<'_>) -> Option<&'static str> {
    if pod.annotations.contains_key(ISTIO_STATUS) {
        return Some("it carries a sidecar, which ambient mode leaves its traffic to");
    }
    (pod.label_or_annotation(DATAPLANE_MODE) == Some("none"))
        .then_some("istio.io/dataplane-mode is none")
}

/// Why labels do not select a Pod for ambient mode, if so. The selectors are the defaults of istio-cni
/// (`ambient.enablementSelectors`).
pub(super) fn not_selected_by_label(
    pod: &PodAnnotations<'_>,
    excluded_namespaces: &[String],
) -> Result<Option<&'static str>, Error> {
    if pod.annotations.contains_key(ISTIO_STATUS) {
        return Ok(Some(
            "it carries a sidecar, which ambient mode leaves its traffic to",
        ));
    }
    // An agent enrolled it when it started, or must not.
    let enrolled = match pod.annotation(REDIRECTION) {
        Some("disabled") => return Ok(Some("ambient.istio.io/redirection is disabled")),
        annotation => annotation == Some("enabled"),
    };
    let Some(manifest) = pod.manifest else {
        return if enrolled {
            Ok(None)
        } else {
            Err(Error::NoLabels)
        };
    };
    if excluded_namespaces.contains(&manifest.namespace) {
        return Ok(Some("its Kubernetes namespace is excluded from the mesh"));
    }
    let mode = |labels: &'_ Annotations| labels.get(DATAPLANE_MODE).cloned();
    Ok(match mode(&manifest.labels).as_deref() {
        Some(AMBIENT) => None,
        Some("none") => Some("its label istio.io/dataplane-mode is none"),
        _ if enrolled || mode(&manifest.namespace_labels).as_deref() == Some(AMBIENT) => None,
        _ => Some("neither it nor its namespace has the label istio.io/dataplane-mode=ambient"),
    })
}

/// Applies the switches of an ambient Pod. As Istio's agent does, a value that Go's
/// `strconv.ParseBool` rejects counts as absent.
pub(super) fn adjust_ambient(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) {
    let switch = |key| pod.annotations.get(key).and_then(|value| boolean(value));
    let of_node = pod.mesh.dns_capture && !pod.mesh.node.no_dns_capture;
    policy.ports.dns = if switch(DNS_CAPTURE).unwrap_or(of_node) {
        pod.mesh.dns_port
    } else {
        0
    };
    if switch(BYPASS_INBOUND) == Some(true) {
        policy.inbound = Inbound::Include(Ports::new());
    }
}

/// The arguments of `istio-init`, by the names of the annotations that they override. They include
/// mesh-wide values, which a Pod with an init container does not repeat in annotations.
pub(super) fn init_arguments(pod: &PodAnnotations<'_>) -> Option<Annotations> {
    let arguments = Arguments::of(pod.container(INIT)?)?;
    let names = &pod.mesh.annotations;
    let mut stated = Annotations::new();
    for (name, flag, absent) in [
        (&names.interception_mode, "-m", None),
        (&names.include_networks, "-i", None),
        (&names.exclude_networks, "-x", Some("")),
        (&names.include_inbound_ports, "-b", None),
        (&names.exclude_inbound_ports, "-d", Some("")),
        (&names.include_outbound_ports, "-q", Some("")),
        (&names.exclude_outbound_ports, "-o", Some("")),
        (&names.exclude_interfaces, "-c", Some("")),
        (&names.virtual_interfaces, "-k", Some("")),
    ] {
        if let (Some(name), Some(value)) = (name, arguments.value(flag).or(absent)) {
            // As `istio-iptables`, and unlike the CNI plugin.
            stated.insert(name.clone(), without_empty_items(value));
        }
    }
    Some(stated)
}

/// The proxy's outbound and inbound port, and its user, from an init container.
pub(super) fn init_ports(pod: &PodAnnotations<'_>) -> (Option<u16>, Option<u16>) {
    let container = pod.container(INIT).or_else(|| pod.container(VALIDATION));
    let arguments = container.and_then(Arguments::of);
    let value = |flag| arguments.as_ref().and_then(|all| port(all.value(flag)?));
    (value("-p"), value("-z"))
}

/// The user that `istio-init` exempts as the proxy's.
pub(super) fn init_uid(pod: &PodAnnotations<'_>) -> Option<u32> {
    Arguments::of(pod.container(INIT)?)?
        .value("-u")?
        .parse()
        .ok()
}

/// The redirected families: without dual stack the rules follow the Pod's first address.
pub(super) fn families(pod: &PodAnnotations<'_>) -> Families {
    let env = pod.container(PROXY).map(|proxy| &proxy.env);
    let stated = env.and_then(|env| env.get(DUAL_STACK));
    let dual_stack = stated.map_or(pod.mesh.node.dual_stack, |value| is_true(Some(value)));
    if dual_stack {
        Families::Both
    } else {
        pod.mesh.families
    }
}

/// The arguments of `istio-iptables`.
struct Arguments<'a>(&'a [String]);

impl<'a> Arguments<'a> {
    /// Those after the program's name. Early templates leave that name to the image.
    fn of(container: &'a Container) -> Option<Self> {
        let line = &container.args;
        let is_program = |word: &String| word.rsplit('/').next() == Some("istio-iptables");
        match line.iter().position(is_program) {
            Some(at) => Some(Self(&line[at + 1..])),
            None => (line.first()?.starts_with('-')).then_some(Self(line)),
        }
    }

    fn value(&self, flag: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|one| one == flag)?;
        self.0.get(at + 1).map(|value| value.trim())
    }
}

fn is_true(value: Option<&String>) -> bool {
    value.and_then(|value| boolean(value)) == Some(true)
}

/// The values of Go's `strconv.ParseBool`.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
