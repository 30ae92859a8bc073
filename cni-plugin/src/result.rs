//! The Pod's addresses in the chain's result (CNI spec 1.1.0, "Success"). The result itself is
//! never changed.

use std::{collections::BTreeMap, net::IpAddr};

use daemon_api::PodAddress;
use serde_json::{Value, value::RawValue};

use crate::{
    Error,
    conf::{expected, wrong},
};

/// The addresses that belong to interfaces inside the container.
///
/// `ifname` stands for entries that name no interface: the spec leaves it out where a plugin
/// lists no interfaces.
pub(crate) fn addresses(result: &str, ifname: &str) -> Result<Vec<PodAddress>, Error> {
    let result: BTreeMap<String, &RawValue> = serde_json::from_str(result)
        .map_err(|_| wrong("prevResult", "must be an object".to_owned()))?;
    let ips = &list(&result, "ips")?;
    let interfaces = &list(&result, "interfaces")?;
    let mut found = Vec::with_capacity(ips.len());
    for (index, entry) in ips.iter().enumerate() {
        let interface = match entry.get("interface") {
            None | Some(Value::Null) => Some(ifname),
            Some(at) => inside(interfaces, at, index)?,
        };
        let ip = address(entry, index)?;
        if let Some(interface) = interface {
            found.push(PodAddress {
                ip,
                interface: interface.to_owned(),
            });
        }
    }
    Ok(found)
}

fn list(result: &BTreeMap<String, &RawValue>, key: &str) -> Result<Vec<Value>, Error> {
    let text = result.get(key).map_or("null", |raw| raw.get());
    match serde_json::from_str(text).map_err(Error::Json)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => Ok(list),
        other => Err(wrong(
            &format!("prevResult.{key}"),
            expected("a list", &other),
        )),
    }
}

/// The name of the interface that an entry points at, if it is inside the container: those have
/// a `sandbox`.
fn inside<'a>(interfaces: &'a [Value], at: &Value, entry: usize) -> Result<Option<&'a str>, Error> {
    let key = format!("prevResult.ips[{entry}].interface");
    let interface = at
        .as_u64()
        .and_then(|at| usize::try_from(at).ok())
        .and_then(|at| interfaces.get(at))
        .ok_or_else(|| wrong(&key, expected("an index into prevResult.interfaces", at)))?;
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
        "" => Err(wrong(
            &key,
            "points at an interface without a name".to_owned(),
        )),
        name => Ok(Some(name)),
    }
}

/// The address of an entry, without the prefix length.
fn address(entry: &Value, index: usize) -> Result<IpAddr, Error> {
    let value = entry.get("address").unwrap_or(&Value::Null);
    value
        .as_str()
        .and_then(|cidr| cidr.split_once('/'))
        .and_then(|(ip, _length)| ip.parse().ok())
        .ok_or_else(|| {
            wrong(
                &format!("prevResult.ips[{index}].address"),
                expected("an address in CIDR form", value),
            )
        })
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
        let found = addresses(&result.to_string(), "eth0").unwrap();
        let texts: Vec<_> = found
            .iter()
            .map(|one| format!("{} {}", one.ip, one.interface))
            .collect();
        assert_eq!(texts, ["10.0.0.5 eth0", "fd00::5 eth0"]);
    }

    #[test]
    fn an_address_without_an_interface_is_on_the_one_that_was_asked_for() {
        let result = json!({"ips": [{"address": "10.0.0.5/24"}]});
        assert_eq!(
            addresses(&result.to_string(), "net1").unwrap()[0].interface,
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
            let error = addresses(&result.to_string(), "eth0").unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().starts_with(path), "{error}");
        }
    }

    proptest! {
        #[test]
        fn results_of_any_shape_are_read_or_refused(address in ".*", at in any::<i64>()) {
            let result = json!({
                "interfaces": [{"name": "eth0", "sandbox": "x"}],
                "ips": [{"address": address, "interface": at}],
            });
            let _either = addresses(&result.to_string(), "eth0");
        }
    }
}
