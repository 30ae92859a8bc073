//! The network configuration on standard input: the plugin's conflist entry, completed by the runtime.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Map, Value, value::RawValue};
use sluice_api::ValidAttachment;

use crate::{Error, invocation::is_identifier, version::UNSTATED};

/// Maximum size of the configuration in bytes.
pub(crate) const MAX_STDIN: u64 = 4 << 20;

/// Keys of the CNI spec and its conventions, which this plugin ignores.
const STANDARD: [&str; 11] = [
    "type",
    "name",
    "cniVersion",
    "cniVersions",
    "prevResult",
    "runtimeConfig",
    "capabilities",
    "args",
    "ipMasq",
    "ipam",
    "dns",
];
/// Keys of this plugin.
const OWN: &[&str] = &["socket", "timeoutSeconds", "requireDaemon"];
/// The key of the Pod's annotations, if the entry declares the capability.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The attachments that GC keeps (CNI spec 1.1.0, "GC"). The first version of the spec used the second
/// name, and libcni sends both.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];
/// The default timeout of an invocation.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The validated configuration.
#[derive(Debug)]
pub(crate) struct Conf {
    /// `name`: the network.
    pub(crate) network: String,
    /// Path of the daemon's socket.
    pub(crate) socket: PathBuf,
    /// The timeout of the whole invocation.
    pub(crate) timeout: Duration,
    /// Whether every ADD needs the daemon. Without it, a Pod whose annotations exclude interception
    /// starts while the daemon does not run.
    pub(crate) require_daemon: bool,
    /// The result of the previous plugins in the chain.
    pub(crate) prev_result: Option<String>,
    /// The Pod's annotations, if the runtime passed them.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// The attachments that GC must keep, if the runtime listed them.
    pub(crate) valid: Option<Vec<ValidAttachment>>,
}

/// The decoded configuration, before validation of its keys. Of a duplicate key the last one counts.
#[derive(Default)]
pub(crate) struct Document {
    pub(crate) object: Map<String, Value>,
    prev_result: Option<String>,
}

/// Decodes the configuration. `prevResult` keeps its exact bytes: the plugin does not change unknown
/// content, such as a number that fits no integer or float type.
pub(crate) fn decode(bytes: &[u8]) -> Result<Document, Error> {
    if bytes.len() as u64 > MAX_STDIN {
        return Err(config_error(
            "the configuration",
            format!("is longer than {MAX_STDIN} bytes"),
        ));
    }
    let parsed: serde_json::Result<BTreeMap<String, &RawValue>> = serde_json::from_slice(bytes);
    let mut keys = parsed.map_err(|error| {
        if error.is_data() {
            config_error("the configuration", "must be an object".to_owned())
        } else {
            Error::Json(error)
        }
    })?;
    let prev_result = keys.remove("prevResult").map(RawValue::get);
    let value = |(key, raw): (String, &RawValue)| Ok((key, serde_json::from_str(raw.get())?));
    Ok(Document {
        prev_result: prev_result
            .filter(|text| *text != "null")
            .map(str::to_owned),
        object: keys
            .into_iter()
            .map(value)
            .collect::<Result<_, _>>()
            .map_err(Error::Json)?,
    })
}

/// `cniVersion`, as in libcni: a missing or empty one means 0.1.0.
pub(crate) fn version(document: &Document) -> Result<String, Error> {
    let version = text(&document.object, "cniVersion")?.unwrap_or_default();
    Ok(if version.is_empty() {
        UNSTATED
    } else {
        version
    }
    .to_owned())
}

impl Conf {
    /// Validates every key.
    pub(crate) fn new(document: Document) -> Result<Self, Error> {
        let Document {
            object,
            prev_result,
        } = document;
        let known = |key: &String| {
            STANDARD.contains(&key.as_str())
                || OWN.contains(&key.as_str())
                || key.starts_with("cni.dev/")
        };
        if let Some((key, value)) = object.iter().find(|(key, _)| !known(key)) {
            return Err(Error::UnknownKey {
                key: key.clone(),
                value: shortened(value),
                allowed: OWN,
            });
        }
        Ok(Self {
            network: network(&object)?,
            socket: socket(&object)?,
            timeout: timeout(&object)?,
            require_daemon: require_daemon(&object)?,
            annotations: annotations(&object)?,
            valid: valid_attachments(&object)?,
            prev_result,
        })
    }
}

/// `name`.
pub(crate) fn network(object: &Map<String, Value>) -> Result<String, Error> {
    let network = text(object, "name")?.unwrap_or_default();
    if is_identifier(network) {
        return Ok(network.to_owned());
    }
    Err(config_error(
        "name",
        format!("is '{network}'; it must be the network's name"),
    ))
}

/// `socket`, or the default.
pub(crate) fn socket(object: &Map<String, Value>) -> Result<PathBuf, Error> {
    let socket = text(object, "socket")?.unwrap_or(sluice_api::SOCKET);
    if socket.starts_with('/') {
        return Ok(socket.into());
    }
    Err(config_error(
        "socket",
        format!("is '{socket}'; it must be an absolute path"),
    ))
}

/// `timeoutSeconds`, or the default.
pub(crate) fn timeout(object: &Map<String, Value>) -> Result<Duration, Error> {
    let Some(value) = object.get("timeoutSeconds") else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match value.as_u64() {
        Some(seconds @ 1..=60) => Ok(Duration::from_secs(seconds)),
        _ => Err(config_error(
            "timeoutSeconds",
            type_error("a whole number from 1 to 60", value),
        )),
    }
}

fn require_daemon(object: &Map<String, Value>) -> Result<bool, Error> {
    match object.get("requireDaemon") {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(config_error(
            "requireDaemon",
            type_error("a boolean", other),
        )),
    }
}

fn annotations(object: &Map<String, Value>) -> Result<Option<BTreeMap<String, String>>, Error> {
    let key = format!("runtimeConfig[\"{ANNOTATIONS}\"]");
    let config = match object.get("runtimeConfig") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(config)) => config,
        Some(other) => {
            return Err(config_error(
                "runtimeConfig",
                type_error("an object", other),
            ));
        }
    };
    match config.get(ANNOTATIONS) {
        None => Ok(None),
        // containerd passes a Go map, which is null if the Pod has no annotation.
        Some(Value::Null) => Ok(Some(BTreeMap::new())),
        Some(value) => serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|_| config_error(&key, type_error("an object of strings", value))),
    }
}

/// `null` is an empty list, as Go encodes it; an absent key means "unknown".
fn valid_attachments(object: &Map<String, Value>) -> Result<Option<Vec<ValidAttachment>>, Error> {
    let given = VALID_ATTACHMENTS.into_iter();
    let Some((key, value)) = given
        .map(|key| (key, object.get(key)))
        .find_map(|(key, value)| Some((key, value?)))
    else {
        return Ok(None);
    };
    let list = match value {
        Value::Null => return Ok(Some(Vec::new())),
        Value::Array(list) => list,
        other => return Err(config_error(key, type_error("a list", other))),
    };
    let one = |(index, item): (usize, &Value)| {
        let field = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
        match (field("containerID"), field("ifname")) {
            (Some(container_id), Some(ifname)) => Ok(ValidAttachment {
                container_id,
                ifname,
            }),
            _ => Err(config_error(
                &format!("{key}[{index}]"),
                type_error("an object with containerID and ifname", item),
            )),
        }
    };
    list.iter()
        .enumerate()
        .map(one)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The string value of a key, if the key exists.
fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Error> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(config_error(key, type_error("a string", other))),
    }
}

pub(crate) fn config_error(key: &str, problem: String) -> Error {
    Error::Config {
        key: key.to_owned(),
        problem,
    }
}

/// "must be …, and is …", with the value truncated.
pub(crate) fn type_error(what: &str, value: &Value) -> String {
    format!("must be {what}, and is {}", shortened(value))
}

/// A value as JSON, truncated for a message.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    let short: String = text.chars().take(SHOWN).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    short + more
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conf(text: &str) -> Result<Conf, Error> {
        Conf::new(decode(text.as_bytes())?)
    }

    #[test]
    fn wrong_value_errors_name_the_allowed_values() {
        let rows = [
            ("[]", 7, "an object"),
            (r#"{"name":"n","#, 6, "not JSON"),
            (r#"{"name":"n","sockets":1}"#, 2, "'sockets'"),
            (r#"{"name":"n","socket":1}"#, 7, "socket must be a string"),
            (r#"{"name":"n","socket":"run"}"#, 7, "absolute"),
            (r#"{"name":"n","timeoutSeconds":"5"}"#, 7, "from 1 to 60"),
            (r#"{"name":"n","timeoutSeconds":0}"#, 7, "from 1 to 60"),
            (r#"{"name":"n","timeoutSeconds":61}"#, 7, "from 1 to 60"),
            (r#"{"name":7}"#, 7, "name must be a string"),
            (r#"{"name":""}"#, 7, "network's name"),
            (
                r#"{"name":"n","runtimeConfig":[]}"#,
                7,
                "runtimeConfig must be an object",
            ),
            (
                r#"{"name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":1}}}"#,
                7,
                "an object of strings",
            ),
            (
                r#"{"name":"n","cni.dev/valid-attachments":{}}"#,
                7,
                "must be a list",
            ),
            (
                r#"{"name":"n","cni.dev/valid-attachments":[{}]}"#,
                7,
                "attachments[0]",
            ),
        ];
        for (text, code, part) in rows {
            let error = conf(text).unwrap_err();
            assert_eq!(error.code(), code, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn absent_keys_have_defaults() {
        let conf = conf(r#"{"name":"n","type":"sluice-cni"}"#).unwrap();
        assert_eq!(conf.socket, PathBuf::from(sluice_api::SOCKET));
        assert_eq!(conf.timeout, Duration::from_secs(5));
        assert_eq!(
            (conf.annotations, conf.valid, conf.prev_result),
            (None, None, None)
        );
    }

    #[test]
    fn empty_annotations_differ_from_missing_ones() {
        let null = r#"{"name":"n","runtimeConfig":{"io.kubernetes.cri.pod-annotations":null}}"#;
        assert_eq!(conf(null).unwrap().annotations, Some(BTreeMap::new()));
        let without = r#"{"name":"n","runtimeConfig":{}}"#;
        assert_eq!(conf(without).unwrap().annotations, None);
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = decode(&bytes).and_then(Conf::new);
        }

        #[test]
        fn values_of_any_type_are_read_or_refused(
            key in "(name|socket|timeoutSeconds|runtimeConfig|prevResult|cni.dev/valid-attachments)",
            value in "(null|1|-1|1e9|\"x\"|\\[1\\]|\\{\"a\":\\{\\}\\}|true)",
        ) {
            let _either = conf(&format!(r#"{{"name":"n","{key}":{value}}}"#));
        }
    }
}
