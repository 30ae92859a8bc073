//! Istio's settings beyond single annotations: the Pod's template and the arguments of its init
//! container. The decisions match those of istio-cni.

use sluice_api::{Container, ISTIO_STATUS, not_redirected_by_istio};

use super::{Annotations, parse::port, subject::PodAnnotations};

const MODE: &str = "sidecar.istio.io/interceptionMode";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
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
    ] {
        if let (Some(name), Some(value)) = (name, arguments.value(flag).or(absent)) {
            stated.insert(name.clone(), value.to_owned());
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

/// The arguments of `istio-iptables`.
struct Arguments<'a>(&'a [String]);

impl<'a> Arguments<'a> {
    fn of(container: &'a Container) -> Option<Self> {
        let (first, rest) = container.args.split_first()?;
        (first == "istio-iptables").then_some(Self(rest))
    }

    fn value(&self, flag: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|one| one == flag)?;
        self.0.get(at + 1).map(|value| value.trim())
    }
}

/// The values of Go's `strconv.ParseBool`.
fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|value| ["1", "t", "T", "TRUE", "true", "True"].contains(&&**value))
}
