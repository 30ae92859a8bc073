//! The annotations that name virtual interfaces, whose connections the proxy gets.

use sluice_abi::maps::INTERFACES_PER_POD;

use super::{Error, PodAnnotations, PodPolicy, parse};
use crate::pods::bypass::IfacePattern;

/// The accepted names. The Pod's routing rule names an interface, not a pattern.
const ALLOWED: &str = "the whole name of an interface other than lo";
/// The packets of both modes would pass the inbound chain of `TPROXY` first.
const NOT_TPROXY: &str = "empty beside the interception mode TPROXY";
const FEW: &str = "no longer than 32 interfaces";

/// Applies the list. The current annotation precedes the earlier one.
pub(super) fn adjust(pod: &PodAnnotations<'_>, policy: &mut PodPolicy) -> Result<(), Error> {
    let names = &pod.mesh.annotations;
    let current = pod.named_annotation(names.virtual_interfaces.as_ref());
    let earlier = || pod.named_annotation(names.virtual_interfaces_earlier.as_ref());
    let Some((key, list)) = current.or_else(earlier) else {
        return Ok(());
    };
    let found: Box<[String]> = parse::items(key, list, ALLOWED, name)?;
    let allowed = if policy.tproxy && !found.is_empty() {
        NOT_TPROXY
    } else if found.len() > INTERFACES_PER_POD {
        FEW
    } else {
        policy.virtual_interfaces = found;
        return Ok(());
    };
    Err(Error::Item {
        key,
        item: list.trim().to_owned(),
        allowed,
    })
}

fn name(item: &str) -> Option<String> {
    match IfacePattern::parse(item)? {
        IfacePattern::Exact(name) => Some(name),
        IfacePattern::Prefix(_) => None,
    }
}
