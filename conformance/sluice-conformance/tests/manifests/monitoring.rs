//! Alerts and the dashboard: they name what docs describe.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use super::{array, manifests, object, objects};

/// The text of a page in docs.
fn page(name: &str) -> String {
    let path = manifests().join("../../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn alerts_lead_to_sections_of_the_runbook() {
    let objects = objects(&json!({ "monitoring": { "enabled": true } }));
    let rule = object(&objects, "PrometheusRule");
    let runbook = page("troubleshooting.md");
    let anchors: BTreeSet<_> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|title| title.to_lowercase().replace(' ', "-"))
        .collect();
    let rules = array(&rule["spec"]["groups"][0]["rules"]);
    assert!(!rules.is_empty());
    for rule in rules {
        let link = rule["annotations"]["runbook_url"].as_str().unwrap();
        let (_, anchor) = link.split_once('#').unwrap();
        assert!(anchors.contains(anchor), "{link}: {anchors:?}");
    }
}

/// Every metric and every reason that an alert or a panel names stands in the reference.
#[test]
fn alerts_and_panels_name_documented_metrics() {
    let objects = objects(&json!({ "monitoring": { "enabled": true } }));
    let mut expressions = Vec::new();
    let rule = object(&objects, "PrometheusRule");
    for rule in array(&rule["spec"]["groups"][0]["rules"]) {
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
    }
    let mut texts = objects
        .iter()
        .filter_map(|object| object["data"]["sluice.json"].as_str());
    let board: Value = serde_json::from_str(texts.next_back().unwrap()).unwrap();
    for panel in array(&board["panels"]) {
        for target in array(&panel["targets"]) {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    let reference = page("reference/metrics.md");
    for expression in expressions {
        let words = expression.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
        for name in words.filter(|word| word.starts_with("sluice_")) {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(
                reference.contains(&format!("`{name}`")),
                "{name}: {expression}"
            );
        }
        for (_, reasons) in expression
            .match_indices("reason=")
            .map(|(at, _)| expression.split_at(at))
        {
            let reasons = reasons.split('"').nth(1).unwrap();
            for reason in reasons.split('|') {
                let reason = reason.strip_suffix(".*").unwrap_or(reason);
                assert!(
                    reference.contains(&format!("`{reason}")),
                    "{reason}: {expression}"
                );
            }
        }
    }
}
