//! The Pod's addresses in the chain's result (CNI spec 1.1.0, "Success"; 0.2.0, "Result"). The plugin
//! changes only the version of the result.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, value::RawValue};
use sluice_api::PodAddress;

use crate::{
    Error,
    conf::{config_error, type_error},
    version::Form,
};

/// A result with undecoded values. Of a duplicate key the last one counts.
type Object<'a> = BTreeMap<String, &'a RawValue>;

fn object(result: &str) -> Result<Object<'_>, Error> {
    serde_json::from_str(result)
        .map_err(|_| config_error("prevResult", "must be an object".to_owned()))
}

/// The result for a configuration of this version. As in the reference plugins, its `cniVersion` is set
/// if it is absent or another one of the same form; no other byte changes.
pub(crate) fn in_version(result: &str, version: &str) -> Result<String, Error> {
    let object = object(result)?;
    let key = "prevResult.cniVersion";
    let Some(raw) = object.get("cniVersion") else {
        let rest = result.trim_start().get(1..).unwrap_or_default();
        let comma = if object.is_empty() { "" } else { "," };
        return Ok(format!("{{\"cniVersion\":\"{version}\"{comma}{rest}"));
    };
    let value: Value = serde_json::from_str(raw.get()).map_err(Error::Json)?;
    let said = value
        .as_str()
        .ok_or_else(|| config_error(key, type_error("a string", &value)))?;
    if said == version {
        return Ok(result.to_owned());
    }
    if !said.is_empty() && Form::of(said) != Form::of(version) {
        let problem = format!(
            "is '{said}', and the configuration has {version}, whose results have another form; \
             give every plugin of the list the same version"
        );
        return Err(config_error(key, problem));
    }
    let start = raw.get().as_ptr().addr() - result.as_ptr().addr();
    let (before, after) = (&result[..start], &result[start + raw.get().len()..]);
    Ok(format!("{before}\"{version}\"{after}"))
}

/// The addresses of interfaces inside the container.
///
/// `ifname` is the interface of entries without one: a plugin may list no interfaces, and before 0.3.0
/// no result names one.
pub(crate) fn addresses(
    result: &str,
    version: &str,
    ifname: &str,
) -> Result<Vec<PodAddress>, Error> {
    let result = object(result)?;
    if Form::of(version) == Some(Form::TwoAddresses) {
        return two_addresses(&result, ifname);
    }
    let ips = &list(&result, "ips")?;
    let interfaces = &list(&result, "interfaces")?;
    let mut found = Vec::with_capacity(ips.len());
    for (index, entry) in ips.iter().enumerate() {
        let interface = match entry.get("interface") {
            None | Some(Value::Null) => Some(ifname),
            Some(at) => inside(interfaces, at, index)?,
        };
        let value = entry.get("address").unwrap_or(&Value::Null);
        let ip = address(value, &format!("prevResult.ips[{index}].address"))?;
        if let Some(interface) = interface {
            found.push(PodAddress {
                ip,
                interface: interface.to_owned(),
            });
        }
    }
    Ok(found)
}

/// `ip4.ip` and `ip6.ip`.
fn two_addresses(result: &Object<'_>, ifname: &str) -> Result<Vec<PodAddress>, Error> {
    let mut found = Vec::new();
    for key in ["ip4", "ip6"] {
        let text = result.get(key).map_or("null", |raw| raw.get());
        let entry: Value = serde_json::from_str(text).map_err(Error::Json)?;
        if !entry.is_null() {
            found.push(PodAddress {
                ip: address(&entry["ip"], &format!("prevResult.{key}.ip"))?,
                interface: ifname.to_owned(),
            });
        }
    }
    Ok(found)
}

fn list(result: &Object<'_>, key: &str) -> Result<Vec<Value>, Error> {
    let text = result.get(key).map_or("null", |raw| raw.get());
    match serde_json::from_str(text).map_err(Error::Json)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list),
        other => Err(config_error(
            &format!("prevResult.{key}"),
            type_error("a list", &other),
        )),
    }
}

/// The interface name of an entry, if the interface is inside the container, that is, has a `sandbox`.
fn inside<'a>(interfaces: &'a [Value], at: &Value, entry: usize) -> Result<Option<&'a str>, Error> {
    let key = format!("prevResult.ips[{entry}].interface");
    let interface = at
        .as_u64()
        .and_then(|at| usize::try_from(at).ok())
        .and_then(|at| interfaces.get(at))
        .ok_or_else(|| config_error(&key, type_error("an index into prevResult.interfaces", at)))?;
    let text = |field: &str| {
        interface
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if text("sandbox").is_empty() {
        return Ok(None);
    }
    match text("name") {
        "" => Err(config_error(
            &key,
            "points at an interface without a name".to_owned(),
        )),
        name => Ok(Some(name)),
    }
}

/// The address of an entry, without the prefix length.
fn address(value: &Value, key: &str) -> Result<IpAddr, Error> {
    value
        .as_str()
        .and_then(|cidr| cidr.split_once('/'))
        .and_then(|(ip, _length)| ip.parse().ok())
        .ok_or_else(|| config_error(key, type_error("an address in CIDR form", value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_addresses_inside_the_container_are_the_pods() {
        let result = json!({
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.5/24", "interface": 1},
                {"version": "6", "address": "fd00::5/64", "interface": 1},
            ],
        });
        let found = addresses(&result.to_string(), "1.0.0", "eth0").unwrap();
        let texts: Vec<_> = found
            .iter()
            .map(|one| format!("{} {}", one.ip, one.interface))
            .collect();
        assert_eq!(texts, ["10.0.0.5 eth0", "fd00::5 eth0"]);
    }

    #[test]
    fn address_without_interface_belongs_to_the_requested_one() {
        let result = json!({"ips": [{"address": "10.0.0.5/24"}]});
        assert_eq!(
            addresses(&result.to_string(), "1.0.0", "net1").unwrap()[0].interface,
            "net1"
        );
    }

    #[test]
    fn a_wrong_entry_is_named_by_its_path() {
        let rows = [
            (json!({"ips": 1}), "prevResult.ips"),
            (
                json!({"ips": [{"address": "10.0.0.5"}]}),
                "prevResult.ips[0].address",
            ),
            (
                json!({"ips": [{"address": "10.0.0.5/8"}, {}]}),
                "prevResult.ips[1].address",
            ),
            (
                json!({"ips": [{"address": "10.0.0.5/8", "interface": 3}]}),
                "prevResult.ips[0].interface",
            ),
            (
                json!({"ips": [{"address": "10.0.0.5/8", "interface": -1}]}),
                "prevResult.ips[0].interface",
            ),
        ];
        for (result, path) in rows {
            let error = addresses(&result.to_string(), "1.0.0", "eth0").unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().starts_with(path), "{error}");
        }
    }

    #[test]
    fn results_before_030_have_one_address_of_each_family() {
        let result = json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1"},
            "ip6": {"ip": "fd00:1::5/64"},
            "ips": [{"address": "10.9.9.9/24"}],
        });
        for version in ["0.1.0", "0.2.0"] {
            let found = addresses(&result.to_string(), version, "eth0").unwrap();
            let texts: Vec<_> = found
                .iter()
                .map(|one| format!("{} {}", one.ip, one.interface))
                .collect();
            assert_eq!(texts, ["10.1.0.5 eth0", "fd00:1::5 eth0"]);
        }
        let without = addresses("{}", "0.1.0", "eth0").unwrap();
        assert_eq!(without, []);
        let error = addresses(r#"{"ip4":{"ip":7}}"#, "0.2.0", "eth0").unwrap_err();
        assert!(
            error.to_string().starts_with("prevResult.ip4.ip"),
            "{error}"
        );
    }

    #[test]
    fn result_version_follows_the_configuration_within_one_form() {
        let rows = [
            ("{}", "1.0.0", r#"{"cniVersion":"1.0.0"}"#),
            (
                " {\n \"ips\": []}",
                "0.4.0",
                "{\"cniVersion\":\"0.4.0\",\n \"ips\": []}",
            ),
            (
                r#"{ "cniVersion" : "1.0.0" }"#,
                "1.1.0",
                r#"{ "cniVersion" : "1.1.0" }"#,
            ),
            (
                r#"{"cniVersion":"","x":1.50}"#,
                "0.1.0",
                r#"{"cniVersion":"0.1.0","x":1.50}"#,
            ),
            (
                r#"{"cniVersion":"0.1.0"}"#,
                "0.2.0",
                r#"{"cniVersion":"0.2.0"}"#,
            ),
        ];
        for (result, version, type_error) in rows {
            assert_eq!(in_version(result, version).unwrap(), type_error);
        }
        for (result, version) in [
            (r#"{"cniVersion":"1.0.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"0.2.0"}"#, "0.3.0"),
            (r#"{"cniVersion":"7"}"#, "1.0.0"),
            (r#"{"cniVersion":7}"#, "1.0.0"),
        ] {
            let error = in_version(result, version).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(
                error.to_string().starts_with("prevResult.cniVersion"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn results_of_any_shape_are_read_or_refused(address in ".*", at in any::<i64>()) {
            let result = json!({
                "interfaces": [{"name": "eth0", "sandbox": "x"}],
                "ips": [{"address": address, "interface": at}],
            });
            let _either = addresses(&result.to_string(), "1.0.0", "eth0");
        }
    }
}
