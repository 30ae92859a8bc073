use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    conf_files::{Files, Plugins},
    fitness::{self, Doubt},
};

fn check_list(text: &str) -> Result<Option<Doubt>, Error> {
    fitness::of_list(
        text,
        &Files::new(),
        &Plugins::from(["a".to_owned(), "bridge".to_owned()]),
    )
}

fn check_single(text: &str) -> Result<Option<Doubt>, Error> {
    fitness::of_single(text, &Plugins::from(["a".to_owned()]))
}

fn standard() -> Entry {
    Entry::new(Path::new(sluice_api::SOCKET))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

const ENTRY: &str =
    r#"{"type":"sluice-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}"#;

#[test]
fn the_entry_follows_the_last_plugin_in_the_style_of_the_list() {
    let rows = [
        (
            "{\"plugins\":[{}]}",
            format!("{{\"plugins\":[{{}},{ENTRY}]}}"),
        ),
        (
            "{ \"plugins\": [\r\n\t{},\r\n\t{}\r\n] }",
            format!("{{ \"plugins\": [\r\n\t{{}},\r\n\t{{}},\r\n\t{ENTRY}\r\n] }}"),
        ),
        // The last of two keys counts.
        (
            "{\"plugins\":1,\"plugins\":[ {} ]}",
            format!("{{\"plugins\":1,\"plugins\":[ {{}}, {ENTRY} ]}}"),
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(with_entry(text, &standard()).unwrap(), expected);
        assert_eq!(without_entry(&expected), text);
    }
}

#[test]
fn existing_entry_is_updated_in_place() {
    let elsewhere = Entry::new(Path::new("/run/x.sock"));
    let list = |entry: &str| format!(r#"{{"plugins":[{{"type":"a"}}, {entry} , {{"type":"b"}}]}}"#);
    let rows = [
        (&standard(), ENTRY, ENTRY.to_owned()),
        (
            &standard(),
            r#"{ "timeoutSeconds" :  9, "type":"sluice-cni", "socket": "/old" }"#,
            r#"{"timeoutSeconds":9,"type":"sluice-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}"#.to_owned(),
        ),
        (
            &elsewhere,
            r#"{"type":"sluice-cni","capabilities":{"x":true}}"#,
            r#"{"type":"sluice-cni","capabilities":{"x":true,"io.kubernetes.cri.pod-annotations":true},"socket":"/run/x.sock"}"#.to_owned(),
        ),
        (
            &standard(),
            r#"{"type":"sluice-cni","capabilities":7}"#,
            ENTRY.to_owned(),
        ),
    ];
    for (entry, before, after) in rows {
        assert_eq!(with_entry(&list(before), entry).unwrap(), list(&after));
    }
}

#[test]
fn duplicate_entries_become_one_behind_the_network() {
    let rows = [
        (format!("{{\"plugins\":[{ENTRY},{{}},{ENTRY}]}}"), 1),
        (format!("{{\"plugins\":[{{}},{ENTRY},{ENTRY},{ENTRY}]}}"), 1),
        (format!("{{\"plugins\":[{ENTRY},{ENTRY},{{}}]}}"), 1),
    ];
    for (text, span) in rows {
        let list = parsed(&with_entry(&text, &standard()).unwrap());
        let plugins = list["plugins"].as_array().unwrap();
        assert_eq!(plugins.len(), 2, "{text}");
        assert_eq!(plugins[span]["type"], "sluice-cni", "{text}");
        assert_eq!(without_entry(&text), r#"{"plugins":[{}]}"#);
    }
}

#[test]
fn a_list_without_a_network_takes_no_entry() {
    for text in ["", "[]", "{}", r#"{"plugins":{}}"#, r#"{"plugins":[]}"#] {
        assert!(with_entry(text, &standard()).is_err(), "{text}");
        assert_eq!(without_entry(text), text);
    }
    let alone = format!(r#"{{"plugins":[{ENTRY}]}}"#);
    assert!(with_entry(&alone, &standard()).is_err());
    assert!(entry(&alone).is_none());
}

#[test]
fn conf_becomes_an_equivalent_conflist() {
    let rows = [
        r#"{"name":"n","type":"bridge"}"#,
        "\r\n{\"cniVersion\":\"0.2.0\",\r\n\"type\":\"bridge\",\"name\":\"n\",\"ipam\":{\"a\":[1.0,1e2]}}\r\n",
    ];
    for text in rows {
        let (single, list) = (
            parsed(text),
            parsed(&conf_to_conflist(text, "10-x.conf").unwrap()),
        );
        assert_eq!(list["plugins"], json!([single]));
        assert_eq!(list["name"], single["name"]);
        assert_eq!(list.get("cniVersion"), single.get("cniVersion"));
        assert!(
            conf_to_conflist(text, "10-x.conf")
                .unwrap()
                .contains(text.trim())
        );
        check_list(&conf_to_conflist(text, "10-x.conf").unwrap()).unwrap();
    }
}

#[test]
fn a_configuration_is_refused_with_the_reason() {
    let list = r#"{"name":"n","plugins":[{"type":"a"}]}"#;
    check_list(list).unwrap();
    let lists = [
        ("", "not JSON"),
        ("\u{feff}{}", "not JSON"),
        ("[]", "not JSON as expected"),
        ("{}", "no 'name'"),
        (r#"{"name":1}"#, "'name' must be a string"),
        (
            r#"{"name":"n","cniVersion":1}"#,
            "'cniVersion' must be a string",
        ),
        (r#"{"name":"n","disableCheck":1}"#, "true or false"),
        (r#"{"name":"n"}"#, "no 'plugins'"),
        (r#"{"name":"n","plugins":{}}"#, "'plugins' must be a list"),
        (r#"{"name":"n","plugins":[]}"#, "at least one"),
        (r#"{"name":"n","plugins":[{"type":"a"},7]}"#, "plugin 1"),
        (r#"{"name":"n","plugins":[{"type":""}]}"#, "plugin 0"),
    ];
    for (text, part) in lists {
        let error = check_list(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    check_single(r#"{"name":"n","type":"a"}"#).unwrap();
    let singles = [
        (list, "no 'type'"),
        (r#"{"name":"n","type":null}"#, "'type' must be"),
    ];
    for (text, part) in singles {
        let error = check_single(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn remarks_name_what_some_runtimes_reject() {
    let rows = [
        (
            r#"{"name":"n","plugins":[{"type":"a"},{"type":"gone"}]}"#,
            "'gone' is not in",
        ),
        (
            r#"{"name":"n","disableCheck":"TRUE","plugins":[{"type":"a"}]}"#,
            "'disableCheck' is a text",
        ),
        (
            r#"{"name":"n","disableGC":"false","plugins":[{"type":"a"}]}"#,
            "'disableGC' is a text",
        ),
        (r#"{"name":"","plugins":[{"type":"a"}]}"#, "no name"),
    ];
    for (text, part) in rows {
        let doubt = check_list(text).unwrap().unwrap().to_string();
        assert!(doubt.contains(part), "{text}: {doubt}");
    }
    assert_eq!(
        check_list(r#"{"name":"n","plugins":[{"type":"a"}]}"#).unwrap(),
        None
    );
    assert_eq!(
        check_single(r#"{"type":"a"}"#).unwrap(),
        Some(Doubt::NoName)
    );
    assert!(check_list(r#"{"name":"n","disableCheck":"x","plugins":[{"type":"a"}]}"#).is_err());
}

#[test]
fn delegated_network_gets_the_entry_and_loses_it() {
    let list = r#"{"name":"n", "plugins":[ {"type":"calico"} ]}"#;
    let rows = [
        (
            format!(r#"{{"type":"multus","delegates":[ {list} , {{"type":"x"}}]}}"#),
            format!(
                r#"{{"type":"multus","delegates":[ {} , {{"type":"x"}}]}}"#,
                list.replace(" ]", &format!(", {ENTRY} ]"))
            ),
        ),
        (
            r#"{"type":"multus","delegates":[{"cniVersion":"0.3.1","name":"o","type":"ovn"}]}"#
                .to_owned(),
            format!(
                r#"{{"type":"multus","delegates":[{{"cniVersion":"0.3.1","name":"o","plugins":[{{"cniVersion":"0.3.1","name":"o","type":"ovn"}},{ENTRY}]}}]}}"#
            ),
        ),
    ];
    for (before, after) in &rows {
        assert!(is_delegating(before));
        assert_eq!(with_delegated_entry(before, &standard()).unwrap(), *after);
        assert_eq!(with_delegated_entry(after, &standard()).unwrap(), *after);
        assert_eq!(entry(after).unwrap(), standard().to_json());
    }
    assert_eq!(without_entry(&rows[0].1), rows[0].0);
    assert!(!without_entry(&rows[1].1).contains("sluice"));
    // In a list that Multus writes, the entry follows Multus, and one that it copied goes.
    let nested = format!(
        r#"{{"name":"m","plugins":[{{"type":"multus","delegates":[{{"plugins":[{{"type":"a"}},{ENTRY}]}}]}}]}}"#
    );
    assert!(!is_delegating(&nested));
    assert_eq!(
        without_entry(&nested),
        nested.replace(&format!(",{ENTRY}"), "")
    );
}

#[test]
fn path_in_a_configuration_gets_another_file_name() {
    let text = r#"{"type":"multus-shim","clusterNetwork" : "/host/net.d/a-sluice.conflist"}"#;
    assert!(names_file(text, "clusterNetwork", "a-sluice.conflist"));
    assert!(!names_file(text, "clusterNetwork", "sluice.conflist"));
    let renamed = with_file(text, "clusterNetwork", ("a-sluice.conflist", "a.conf")).unwrap();
    assert_eq!(renamed, text.replace("a-sluice.conflist", "a.conf"));
    let within = format!(r#"{{"plugins":[{text}]}}"#);
    assert!(
        with_file(&within, "clusterNetwork", ("a-sluice.conflist", "b"))
            .unwrap()
            .contains("net.d/b")
    );
}

#[test]
fn versions_are_those_of_every_libcni() {
    let rows: [(&str, &[&str]); 4] = [
        ("{}", &[""]),
        (r#"{"cniVersion":""}"#, &[""]),
        (r#"{"cniVersion":"0.4.0"}"#, &["0.4.0"]),
        (
            r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","0.3.1"]}"#,
            &["0.4.0", "1.0.0", "0.3.1"],
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(versions(text), expected);
    }
}

/// Any JSON value, written with any white space.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("-1.50e3".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let member = (any::<String>(), blank(), inner.clone())
            .prop_map(|(key, blank, value)| format!("{}{blank}:{value}", json!(key)));
        prop_oneof![
            sequence(inner, 0..4).prop_map(|items| format!("[{items}]")),
            sequence(member, 0..4).prop_map(|members| format!("{{{members}}}")),
        ]
    })
}

fn blank() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

fn sequence(
    item: impl Strategy<Value = String>,
    count: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    let padded = (blank(), item, blank()).prop_map(|(before, item, after)| before + &item + &after);
    prop::collection::vec(padded, count).prop_map(|items| items.join(","))
}

/// A list of plugins, with any keys beside it.
fn list_text() -> impl Strategy<Value = String> {
    let plugin = prop_oneof![
        json_text(),
        Just(r#"{"type":"bridge"}"#.to_owned()),
        (blank(), blank()).prop_map(|(a, b)| format!("{{{a}\"type\"{b}:\"portmap\"}}")),
    ];
    (json_text(), sequence(plugin, 1..5), blank(), json_text()).prop_map(
        |(before, plugins, blank, after)| {
            format!("{{\"a\":{before},{blank}\"plugins\":[{plugins}]{blank},\"z\":{after}}}{blank}")
        },
    )
}

proptest! {
    #[test]
    fn removing_the_entry_restores_every_byte(text in list_text()) {
        let chained = with_entry(&text, &standard()).unwrap();
        prop_assert_eq!(without_entry(&chained), text);
    }

    #[test]
    fn an_edit_adds_the_entry_and_changes_nothing_else(text in list_text()) {
        let chained = with_entry(&text, &standard()).unwrap();
        let (mut before, after) = (parsed(&text), parsed(&chained));
        before["plugins"].as_array_mut().unwrap().push(parsed(ENTRY));
        prop_assert_eq!(&before, &after);
        prop_assert_eq!(entry(&chained).unwrap(), standard().to_json());
        prop_assert_eq!(with_entry(&chained, &standard()).unwrap(), chained);
    }

    #[test]
    fn texts_of_any_kind_are_read_or_refused(text in any::<String>()) {
        let _either = check_list(&text).and(check_single(&text));
        let _either = with_delegated_entry(&text, &standard());
        let _either = (versions(&text), all_kinds(&text), behind_entry(&text), is_delegating(&text));
        let _either = with_file(&text, "clusterNetwork", ("a", "b"));
        let _either = conf_to_conflist(&text, "10-x.conf").and_then(|list| with_entry(&list, &standard()));
        prop_assert_eq!(without_entry(&text), text);
    }
}
