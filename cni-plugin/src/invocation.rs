//! The environment variables of an invocation: the only module that reads the environment.

use std::{collections::BTreeMap, env};

use sluice_api::{Attachment, PodName};

use crate::{Error, spec::Verb};

/// The variables of an invocation (CNI spec 1.1.0, "Parameters"), unchecked.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

/// Maximum length of an interface name, in bytes (`IFNAMSIZ` without the terminator).
const MAX_IFNAME: usize = 15;

impl Invocation {
    /// Whether a runtime calls the plugin.
    #[must_use]
    pub fn requested() -> bool {
        env::var_os("CNI_COMMAND").is_some()
    }

    /// Reads the variables of this process. Bytes that are not UTF-8 are replaced: no valid value
    /// contains any.
    #[must_use]
    pub fn from_environment() -> Self {
        let read = |name| {
            env::var_os(name)
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        Self {
            command: read("CNI_COMMAND"),
            container_id: read("CNI_CONTAINERID"),
            netns: read("CNI_NETNS"),
            ifname: read("CNI_IFNAME"),
            args: read("CNI_ARGS"),
        }
    }

    /// The verb.
    pub(crate) fn verb(&self) -> Result<Verb, Error> {
        match self.command.as_str() {
            "ADD" => Ok(Verb::Add),
            "DEL" => Ok(Verb::Del),
            "CHECK" => Ok(Verb::Check),
            "GC" => Ok(Verb::Gc),
            "STATUS" => Ok(Verb::Status),
            "VERSION" => Ok(Verb::Version),
            other => Err(env_error(
                "CNI_COMMAND",
                format!("is '{other}'; it can be ADD, DEL, CHECK, GC, STATUS or VERSION"),
            )),
        }
    }

    /// Identity of the attachment.
    pub(crate) fn attachment(&self, network: &str) -> Result<Attachment, Error> {
        let Self {
            container_id,
            ifname,
            ..
        } = self;
        if !is_identifier(container_id) {
            return Err(env_error(
                "CNI_CONTAINERID",
                format!(
                    "is '{container_id}'; it must begin with a letter or digit and go on with those, '_', '.' or '-'"
                ),
            ));
        }
        if !is_ifname(ifname) {
            return Err(env_error(
                "CNI_IFNAME",
                format!(
                    "is '{ifname}'; it must be the name of an interface: 1 to {MAX_IFNAME} bytes, no '/', ':' or blank"
                ),
            ));
        }
        Ok(Attachment {
            network: network.to_owned(),
            container_id: container_id.clone(),
            ifname: ifname.clone(),
        })
    }

    /// The path of the network namespace.
    pub(crate) fn netns(&self) -> Result<&str, Error> {
        if self.netns.is_empty() {
            return Err(env_error(
                "CNI_NETNS",
                "is missing; ADD and CHECK need it".to_owned(),
            ));
        }
        Ok(&self.netns)
    }

    /// The Pod's name from `CNI_ARGS`: `KEY=VALUE` pairs in any order, separated by `;`.
    pub(crate) fn pod(&self) -> Result<PodName, Error> {
        let mut found = BTreeMap::new();
        for pair in self.args.split(';').filter(|pair| !pair.trim().is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(env_error(
                    "CNI_ARGS",
                    format!("has '{pair}', which is not KEY=VALUE"),
                ));
            };
            found.insert(key.trim(), value.trim());
        }
        let take = |key| found.get(key).copied().unwrap_or_default().to_owned();
        Ok(PodName {
            namespace: take("K8S_POD_NAMESPACE"),
            name: take("K8S_POD_NAME"),
            uid: take("K8S_POD_UID"),
        })
    }
}

fn env_error(variable: &'static str, problem: String) -> Error {
    Error::Environment { variable, problem }
}

/// The spec's rule for container IDs and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The kernel's rule for interface names (`dev_valid_name`).
fn is_ifname(text: &str) -> bool {
    (1..=MAX_IFNAME).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|letter: char| matches!(letter, '/' | ':') || letter.is_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_args(args: &str) -> Invocation {
        Invocation {
            args: args.to_owned(),
            ..Invocation::default()
        }
    }

    #[test]
    fn pod_name_is_read_from_arguments_in_any_order() {
        let forwards = with_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart");
        let backwards = with_args("K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop;IgnoreUnknown=1;");
        let pod = forwards.pod().unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str()),
            ("shop", "cart")
        );
        assert_eq!(backwards.pod().unwrap(), pod);
        assert_eq!(with_args("").pod().unwrap(), PodName::default());
    }

    #[test]
    fn an_argument_without_a_value_is_named() {
        let error = with_args("IgnoreUnknown").pod().unwrap_err();
        assert_eq!(error.code(), 4);
        assert!(error.to_string().contains("'IgnoreUnknown'"), "{error}");
    }

    #[test]
    fn invalid_interface_names_are_rejected() {
        for good in ["eth0", "net1", "a", "fifteen-letters"] {
            assert!(is_ifname(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen--letters"] {
            assert!(!is_ifname(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arguments_of_any_kind_are_read_or_refused(args in ".*") {
            let _either = with_args(&args).pod();
        }

        #[test]
        fn well_formed_arguments_are_read(name in "[a-z0-9-]{1,20}", other in "[A-Z]{1,8}") {
            let pod = with_args(&format!("{other}=x;K8S_POD_NAME={name}")).pod().unwrap();
            prop_assert_eq!(pod.name, name);
        }
    }
}
