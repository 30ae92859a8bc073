//! The rendered chart for a platform, a version of Kubernetes, and a cluster with another mesh.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};

use super::{VERSIONS, array, manifests, object, objects, objects_with, render, tool};

/// The platforms that the chart knows, as its error names them.
fn platforms() -> Vec<String> {
    let Output { status, stderr, .. } = render(&json!({ "global": { "platform": "abacus" } }), &[]);
    let said = String::from_utf8_lossy(&stderr);
    assert!(!status.success(), "an unknown platform is accepted");
    let (_, list) = said
        .split_once("Set one of ")
        .unwrap_or_else(|| panic!("{said}"));
    let (list, _) = list.split_once(", or leave").unwrap();
    list.split(", ").map(str::to_owned).collect()
}

/// Kinds of other projects, which Kubernetes' schemas do not describe.
const FOREIGN: [&str; 3] = ["SecurityContextConstraints", "PrometheusRule", "PodMonitor"];

/// Validates the rendered chart for a version of Kubernetes, without the foreign kinds.
fn validate(values: &Value, arguments: &[&str], version: &str) {
    let mut values = values.clone();
    values["kubeVersion"] = version.into();
    let mut objects = objects_with(&values, arguments);
    objects.retain(|object| !FOREIGN.contains(&object["kind"].as_str().unwrap()));
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
    fs::write(&file, documents.join("\n---\n")).unwrap();
    let mut validate = tool("kubernetes-validate");
    validate.args(["--strict", "--kubernetes-version", version]);
    let output = validate.arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{values} {version}: {said}");
    assert_eq!(
        said.matches("passed").count(),
        objects.len(),
        "{values}: {said}"
    );
}

#[test]
fn kubernetes_schemas_know_every_field() {
    for version in VERSIONS {
        validate(&json!({}), &[], version);
        validate(&json!({ "monitoring": { "enabled": true } }), &[], version);
        for platform in platforms() {
            let values = json!({ "global": { "platform": platform } });
            validate(&values, &["--namespace", "mesh"], version);
        }
    }
}

#[test]
fn platform_sets_paths_labels_and_admission() {
    let of = |platform: &str| {
        let values = json!({ "global": { "platform": platform } });
        objects_with(&values, &["--namespace", "mesh"])
    };
    let path = |objects: &[Value], name: &str| {
        let set = object(objects, "DaemonSet");
        let volumes = array(&set["spec"]["template"]["spec"]["volumes"]).to_vec();
        let volume = volumes.into_iter().find(|volume| volume["name"] == name);
        volume.unwrap()["hostPath"]["path"].clone()
    };
    for (platform, bin, conf) in [
        ("openshift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d"),
        ("gke", "/home/kubernetes/bin", "/etc/cni/net.d"),
        (
            "k3s",
            "/var/lib/rancher/k3s/data/cni",
            "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        ),
        (
            "microk8s",
            "/var/snap/microk8s/current/opt/cni/bin",
            "/var/snap/microk8s/current/args/cni-network",
        ),
        ("bottlerocket", "/opt/cni/bin", "/etc/cni/net.d"),
        ("talos", "/opt/cni/bin", "/etc/cni/net.d"),
    ] {
        let objects = of(platform);
        assert_eq!(path(&objects, "cni-bin"), bin, "{platform}");
        assert_eq!(path(&objects, "cni-conf"), conf, "{platform}");
    }

    let label = |platform| {
        let set = object(&of(platform), "DaemonSet");
        set["spec"]["template"]["spec"]["securityContext"]["seLinuxOptions"]["type"].clone()
    };
    assert_eq!(label("openshift"), "spc_t");
    assert_eq!(label("bottlerocket"), "control_t");
    assert_eq!(label("eks"), Value::Null);

    let quota = &object(&of("gke"), "ResourceQuota")["spec"]["scopeSelector"]["matchExpressions"];
    assert_eq!(quota[0]["values"], json!(["system-node-critical"]));
    for platform in platforms() {
        let has = |kind: &str| of(&platform).iter().any(|object| object["kind"] == kind);
        assert_eq!(has("ResourceQuota"), platform == "gke", "{platform}");
        let openshift = platform == "openshift";
        assert_eq!(has("SecurityContextConstraints"), openshift, "{platform}");
    }
}

/// The requests of the Pod, and no others.
#[test]
fn openshift_admits_exactly_the_daemons_rights() {
    let objects = objects(&json!({ "global": { "platform": "openshift" } }));
    let admitted = object(&objects, "SecurityContextConstraints");
    let pod = object(&objects, "DaemonSet")["spec"]["template"]["spec"].clone();
    let daemon = array(&pod["containers"])[0].clone();
    assert_eq!(
        admitted["allowedCapabilities"],
        daemon["securityContext"]["capabilities"]["add"]
    );
    assert_eq!(admitted["allowHostNetwork"], pod["hostNetwork"]);
    assert_eq!(admitted["allowHostPID"], pod["hostPID"]);
    assert_eq!(admitted["allowPrivilegedContainer"], false);
    assert_eq!(admitted["allowPrivilegeEscalation"], false);
    assert_eq!(admitted["readOnlyRootFilesystem"], true);
    let rules = object(&objects, "Role")["rules"].clone();
    let uses = array(&rules).iter().any(|rule| {
        rule["resources"] == json!(["securitycontextconstraints"])
            && rule["resourceNames"] == json!([admitted["metadata"]["name"]])
            && rule["verbs"] == json!(["use"])
    });
    assert!(uses, "{rules}");
}

#[test]
fn value_of_the_user_wins_over_the_platform() {
    let objects = objects(&json!({
        "global": { "platform": "openshift" },
        "paths": { "cniBin": "/mine" },
        "seLinuxOptions": { "level": "s0" },
    }));
    let pod = object(&objects, "DaemonSet")["spec"]["template"]["spec"].clone();
    assert_eq!(
        pod["securityContext"]["seLinuxOptions"],
        json!({ "level": "s0" })
    );
    let text = pod.to_string();
    assert!(text.contains("/mine") && !text.contains("/var/lib/cni/bin"));
    assert!(text.contains("/etc/kubernetes/cni/net.d"));
}

#[test]
fn app_armor_profile_has_the_form_of_the_version() {
    const KEY: &str = "container.apparmor.security.beta.kubernetes.io/sluiced";
    for (version, profile, field, annotation) in [
        ("1.29", "Unconfined", Value::Null, json!("unconfined")),
        (
            "v1.29.9-eks-1",
            "RuntimeDefault",
            Value::Null,
            json!("runtime/default"),
        ),
        ("1.30", "Unconfined", json!("Unconfined"), Value::Null),
        (
            "v1.30.1-gke.7",
            "RuntimeDefault",
            json!("RuntimeDefault"),
            Value::Null,
        ),
    ] {
        let values = json!({ "kubeVersion": version, "appArmorProfile": { "type": profile } });
        let template = object(&objects(&values), "DaemonSet")["spec"]["template"].clone();
        let daemon = &template["spec"]["containers"][0];
        let found = &daemon["securityContext"]["appArmorProfile"]["type"];
        assert_eq!(*found, field, "{version}");
        assert_eq!(
            template["metadata"]["annotations"][KEY], annotation,
            "{version}"
        );
    }
}

/// Every alternative of the user's affinity is restricted, since they are alternatives.
#[test]
fn affinity_of_the_user_keeps_the_architecture() {
    let term = |key: &str| json!({ "matchExpressions": [{ "key": key, "operator": "Exists" }] });
    let objects = objects(&json!({
        "global": { "platform": "eks" },
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [term("first"), term("second")],
        } } },
    }));
    let affinity = object(&objects, "DaemonSet")["spec"]["template"]["spec"]["affinity"].clone();
    let required = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = array(&required["nodeSelectorTerms"]);
    assert_eq!(terms.len(), 2);
    for (term, own) in terms.iter().zip(["first", "second"]) {
        let keys: Vec<_> = array(&term["matchExpressions"])
            .iter()
            .map(|expression| expression["key"].as_str().unwrap())
            .collect();
        assert_eq!(
            keys,
            [own, "kubernetes.io/arch", "eks.amazonaws.com/compute-type"]
        );
    }
}

/// The chart reads a file in place of the cluster's `DaemonSet`s.
#[test]
fn chart_refuses_to_join_another_mesh_plugin() {
    let work = tempfile::tempdir().unwrap();
    let chart = work.path().join("chart");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(manifests().join("chart")).arg(&chart);
    assert!(copy.status().unwrap().success());
    let template = chart.join("templates/_checks.tpl");
    let text = fs::read_to_string(&template).unwrap();
    let lookup = r#"lookup "apps/v1" "DaemonSet" "" "" | toJson"#;
    assert!(text.contains(lookup), "{text}");
    fs::write(
        &template,
        text.replace(lookup, r#".Files.Get "daemonsets.json""#),
    )
    .unwrap();

    let with = |name: &str, values: Value| {
        let found = json!({ "items": [
            { "metadata": { "namespace": "kube-system", "name": "kube-proxy" } },
            { "metadata": { "namespace": "mesh", "name": name } },
        ] });
        fs::write(chart.join("daemonsets.json"), found.to_string()).unwrap();
        render(&values, &["--chart", chart.to_str().unwrap()])
    };
    for name in [
        "istio-cni-node",
        "istio-cni-1-30-node",
        "linkerd-cni",
        "kuma-cni-node",
        "consul-consul-cni",
    ] {
        let Output { status, stderr, .. } = with(name, json!({}));
        let said = String::from_utf8_lossy(&stderr);
        assert!(!status.success(), "{name}");
        assert!(
            said.contains(&format!("mesh/{name}")) && said.contains("allowOtherMeshCNI"),
            "{said}"
        );
        let allowed = with(name, json!({ "allowOtherMeshCNI": true }));
        assert!(allowed.status.success(), "{name}");
    }
    assert!(with("istio-ingress", json!({})).status.success());
}
