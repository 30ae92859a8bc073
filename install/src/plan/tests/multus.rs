//! Beside Multus, which copies or names the network that it delegates to.

use super::*;

const THIN: &str =
    r#"{"name":"m","type":"multus","delegates":[{"name":"n","plugins":[{"type":"calico"}]}]}"#;
const SHIM: &str =
    r#"{"name":"m","type":"multus-shim","clusterNetwork":"/host/etc/cni/net.d/NAME"}"#;

#[test]
fn multus_delegates_carry_the_entry_in_either_mode() {
    for mode in [Mode::Chained, Mode::Standalone] {
        let mut node = Node::new(&[("00-multus.conf", THIN), ("10-calico.conflist", LIST)]);
        let before = node.files.clone();
        node.run(Some(mode));
        let names = ["00-multus.conf", "10-calico.conflist"];
        assert!(
            node.files.keys().eq(names),
            "Multus would take another file for a network"
        );
        assert_eq!(node.files["10-calico.conflist"], LIST);
        assert!(crate::plan::entry("00-multus.conf", &node.files).is_some());
        node.run(None);
        assert_eq!(node.files, before);
    }
}

#[test]
fn multus_that_copied_the_entry_loses_it_at_the_uninstall() {
    let mut node = Node::new(&[("10-a.conf", SINGLE)]);
    node.run(Some(Mode::Chained));
    // Multus starts, and takes the first file for the network that it delegates to.
    let copied = format!(
        r#"{{"name":"m","type":"multus","delegates":[{}]}}"#,
        node.files["10-a-sluice.conflist"]
    );
    node.files.insert("00-multus.conf".to_owned(), copied);
    let mut watched = node.clone();
    for node in [&mut node, &mut watched] {
        node.run(None);
        assert!(node.files.keys().eq(["00-multus.conf", "10-a.conf"]));
        assert!(!node.files["00-multus.conf"].contains("sluice-cni"));
    }
    watched.run(Some(Mode::Chained));
    assert!(crate::plan::entry("00-multus.conf", &watched.files).is_some());
}

#[test]
fn multus_daemon_keeps_a_network_that_is_there() {
    for (mode, list) in [
        (Mode::Chained, "10-a-sluice.conflist"),
        (Mode::Standalone, STANDALONE),
    ] {
        let mut node = Node::new(&[("10-a.conf", SINGLE)]);
        node.run(Some(mode));
        node.files
            .insert("00-multus.conf".to_owned(), SHIM.replace("NAME", list));
        let mut removed = node.clone();
        removed.run(None);
        assert_eq!(
            removed.files["00-multus.conf"],
            SHIM.replace("NAME", "10-a.conf")
        );
        assert!(!removed.files.contains_key(list));
        // Its own file is wrapped in a list that it does not take for a network.
        node.run(Some(mode));
        assert_eq!(
            selected(&node).as_deref(),
            Some("00-multus-sluice.conflist")
        );
        assert_eq!(
            node.files["00-multus.conf"],
            SHIM.replace("NAME", "10-a.conf")
        );
        node.run(None);
        assert!(node.files.keys().eq(["00-multus.conf", "10-a.conf"]));
    }
}
