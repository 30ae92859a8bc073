//! The chart, rendered by Helm's own engine, and the manifest that is made from it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect by failing"
)]

#[path = "manifests/monitoring.rs"]
mod monitoring;
#[path = "manifests/platforms.rs"]
mod platforms;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// The oldest and the newest version of Kubernetes whose schemas there are.
const VERSIONS: [&str; 2] = ["1.25", "1.37"];

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install/manifests")
}

/// A program of `setup/manifests.sh`.
fn tool(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join("target/tools/manifests/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: run make setup",
        path.display()
    );
    Command::new(path)
}

fn render(values: &Value, arguments: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, values.to_string()).unwrap();
    let mut command = tool("python");
    command.arg(manifests().join("render.py"));
    command.args(arguments).arg("--values").arg(file.path());
    command.output().unwrap()
}

/// The rendered chart with a user's values.
fn objects(values: &Value) -> Vec<Value> {
    objects_with(values, &[])
}

fn objects_with(values: &Value, arguments: &[&str]) -> Vec<Value> {
    let Output {
        status,
        stdout,
        stderr,
    } = render(values, &[&["--json"], arguments].concat());
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).unwrap()
}

fn object(objects: &[Value], kind: &str) -> Value {
    let found = objects.iter().find(|object| object["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}")).clone()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Every container of the `DaemonSet`, the first one included.
fn containers(objects: &[Value]) -> Vec<Value> {
    let set = object(objects, "DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    [array(&pod["initContainers"]), array(&pod["containers"])].concat()
}

#[test]
fn the_plain_manifest_is_what_the_chart_renders() {
    let rendered = render(&json!({}), &[]).stdout;
    let plain = fs::read(manifests().join("sluice.yaml")).unwrap();
    assert!(
        plain == rendered,
        "the chart has changed: run make manifests"
    );
}

#[test]
fn name_overrides_reach_every_object() {
    let full = objects(&json!({ "fullnameOverride": "other", "monitoring": { "enabled": true } }));
    for object in &full {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("other"), "{object}");
    }
    let text = object(&full, "ConfigMap")["data"]["sluiced.toml"].to_string();
    assert!(text.contains("kube-system/other"), "{text}");
    let named = objects(&json!({ "nameOverride": "mesh" }));
    let set = object(&named, "DaemonSet");
    assert_eq!(set["metadata"]["name"], "sluice-mesh");
    assert_eq!(
        set["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"],
        "mesh"
    );
}

#[test]
fn image_digest_replaces_the_tag() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let image = json!({ "repository": "r.example/sluice", "tag": "7", "digest": digest });
    for container in containers(&objects(&json!({ "image": image }))) {
        assert_eq!(container["image"], format!("r.example/sluice@{digest}"));
    }
}

#[test]
fn readme_and_schema_know_every_value() {
    let mut check = tool("python");
    check.arg(manifests().join("values.py")).arg("--check");
    let Output { status, stderr, .. } = check.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

#[test]
fn containers_have_the_required_rights_only() {
    let objects = objects(&json!({}));
    let set = object(&objects, "DaemonSet");
    let seccomp = &set["spec"]["template"]["spec"]["securityContext"]["seccompProfile"]["type"];
    assert_eq!(seccomp, "RuntimeDefault");
    for container in containers(&objects) {
        let name = container["name"].as_str().unwrap();
        let rights = &container["securityContext"];
        assert_eq!(rights["privileged"], Value::Null, "{name}");
        assert_eq!(rights["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(rights["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]), "{name}");
        let added = match name {
            "sluiced" => json!(["DAC_READ_SEARCH", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]),
            _ => Value::Null,
        };
        assert_eq!(rights["capabilities"]["add"], added, "{name}");
    }
}

#[test]
fn service_account_reads_pods_and_its_daemon_set() {
    let objects = objects(&json!({}));
    let rules = |kind| object(&objects, kind)["rules"].clone();
    assert_eq!(
        rules("ClusterRole"),
        json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }])
    );
    let reporting = self::objects(&json!({ "config": { "pod-events": true } }));
    assert_eq!(
        object(&reporting, "ClusterRole")["rules"][1],
        json!({ "apiGroups": [""], "resources": ["events"], "verbs": ["create"] })
    );
    assert_eq!(
        rules("Role"),
        json!([{
            "apiGroups": ["apps"], "resources": ["daemonsets"],
            "resourceNames": ["sluice"], "verbs": ["get"],
        }])
    );
}

/// A daemon that is not ready must not be restarted: readiness and liveness differ.
#[test]
fn probes_distinguish_ready_and_alive() {
    let all = containers(&objects(&json!({})));
    let daemon = all.iter().find(|one| one["name"] == "sluiced").unwrap();
    let has =
        |probe: &str, word: &str| array(&daemon[probe]["exec"]["command"]).contains(&json!(word));
    for (probe, is_live) in [
        ("startupProbe", true),
        ("livenessProbe", true),
        ("readinessProbe", false),
    ] {
        assert!(has(probe, "status"), "{probe}");
        assert_eq!(has(probe, "--live"), is_live, "{probe}");
    }
}

#[test]
fn metrics_port_can_be_switched_off() {
    for (port, is_there) in [(15014, true), (0, false)] {
        let values = json!({ "metrics": { "port": port }, "monitoring": { "enabled": true } });
        let objects = objects(&values);
        let text = Value::Array(objects.clone()).to_string();
        let monitor = objects.iter().any(|object| object["kind"] == "PodMonitor");
        assert_eq!(monitor, is_there);
        assert_eq!(text.contains("prometheus.io/scrape"), is_there);
        assert_eq!(
            text.contains(&format!("--metrics-address=:{port}")),
            is_there
        );
    }
}

#[test]
fn set_values_reach_the_rendered_chart() {
    let values = json!({
        "image": { "repository": "registry.example/mesh/sluice", "tag": "7", "pullPolicy": "Always" },
        "imagePullSecrets": [{ "name": "pull-me" }],
        "meshes": "[meshes.mine]",
        "mode": "standalone",
        "log": "sluiced=debug",
        "logFormat": "json",
        "metrics": { "port": 15099, "annotations": true },
        "paths": {
            "cniBin": "/host/bin", "cniConf": "/host/conf", "cniCache": "/host/cache", "run": "/host/run", "state": "/host/state",
            "cgroup": "/host/cgroup", "bpffs": "/host/bpf", "netns": "/host/netns",
        },
        "nodeSelector": { "pool": "meshed" },
        "tolerations": [{ "key": "only-this", "operator": "Exists" }],
        "maxUnavailable": "30%",
        "terminationGracePeriodSeconds": 777,
        "architectures": ["riscv64"],
        "priorityClassName": "only-here",
        "podLabels": { "team": "red-label" },
        "podAnnotations": { "example.org/note": "blue-note" },
        "extraEnv": [{ "name": "RUST_BACKTRACE", "value": "full" }],
        "extraVolumes": [{ "name": "more", "emptyDir": { "sizeLimit": "5Mi" } }],
        "extraVolumeMounts": [{ "name": "more", "mountPath": "/more" }],
        "seLinuxOptions": { "type": "mine_t" },
        "appArmorProfile": { "type": "Localhost", "localhostProfile": "my-profile" },
        "resources": {
            "install": { "limits": { "memory": "97Mi" } },
            "sluiced": { "limits": { "memory": "98Mi" } },
            "installer": { "limits": { "memory": "99Mi" } },
        },
        "monitoring": {
            "enabled": true,
            "labels": { "release": "prometheus-here" },
            "runbookUrl": "https://runbook.example/page",
        },
    });
    let text = Value::Array(objects(&values)).to_string();
    let mut wanted = Vec::new();
    leaves(&values, &mut wanted);
    for leaf in wanted {
        assert!(text.contains(&leaf), "{leaf} is set and not used:\n{text}");
    }
}

fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.values().for_each(|field| leaves(field, found)),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
        Value::String(text) => found.push(text.clone()),
        other => found.push(other.to_string()),
    }
}

#[test]
fn unknown_value_is_rejected_by_name() {
    for (values, name) in [
        (json!({ "priviledged": true }), "priviledged"),
        (json!({ "config": { "on-exti": "keep" } }), "on-exti"),
        (json!({ "config": { "on-exit": "leave" } }), "on-exit"),
        (json!({ "paths": { "cniBin": "relative" } }), "cniBin"),
        (json!({ "image": { "digest": "latest" } }), "digest"),
        (json!({ "updateStrategy": "Recreate" }), "updateStrategy"),
        (json!({ "resources": { "sluice": {} } }), "sluice"),
        (
            json!({ "appArmorProfile": { "type": "Localhost" } }),
            "localhostProfile",
        ),
    ] {
        let Output { status, stderr, .. } = render(&values, &[]);
        let said = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && said.contains(name), "{values}: {said}");
    }
}

/// The commands of a program in the fenced blocks of the pages.
fn page_commands(program: &str) -> Vec<String> {
    let root = manifests().join("../..");
    let mut pages = vec![
        root.join("README.md"),
        root.join("install/manifests/chart/README.md"),
    ];
    let docs = fs::read_dir(root.join("docs")).unwrap();
    pages.extend(docs.map(|entry| entry.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|kind| kind == "md"));
    let mut found = Vec::new();
    for page in pages {
        let text = fs::read_to_string(page).unwrap().replace("\\\n", " ");
        let fenced = text.split("```").skip(1).step_by(2).flat_map(str::lines);
        let lines = fenced.map(|line| line.trim().trim_start_matches("$ "));
        found.extend(
            lines
                .filter(|line| line.starts_with(program))
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn helm_commands_of_the_pages_set_known_values() {
    let mut count = 0;
    for command in page_commands("helm ") {
        let words: Vec<_> = command.split_whitespace().collect();
        if !words.contains(&"install/manifests/chart") {
            continue;
        }
        for pair in words.windows(2).filter(|pair| pair[0] == "--set") {
            let (path, value) = pair[1].split_once('=').unwrap();
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            let nested = path
                .rsplit('.')
                .fold(value, |inner, key| json!({ key: inner }));
            objects(&nested);
            count += 1;
        }
    }
    assert!(count >= 5, "{count} values");
}

#[test]
fn kubectl_commands_of_the_pages_name_existing_containers() {
    let objects = objects(&json!({}));
    let set = object(&objects, "DaemonSet");
    let set = set["metadata"]["name"].as_str().unwrap();
    let containers = containers(&objects);
    let mut count = 0;
    for command in page_commands("kubectl ") {
        let Some((_, rest)) = command.split_once("daemonset/") else {
            continue;
        };
        assert_eq!(rest.split(' ').next(), Some(set), "{command}");
        if let Some((_, name)) = command.split_once("--container ") {
            let name = name.split(' ').next().unwrap();
            assert!(
                containers.iter().any(|one| one["name"] == name),
                "{command}"
            );
            count += 1;
        }
    }
    assert!(count >= 4, "{count} containers");
}

/// The daemon's error about an unknown key lists the known ones.
#[test]
fn the_chart_knows_the_keys_of_the_daemons_configuration() {
    let default = manifests().join("../../target/release/sluiced");
    let sluiced = std::env::var_os("SLUICED").map_or(default, Into::into);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "no-such-key = 1").unwrap();
    let mut command = Command::new(&sluiced);
    let output = command.arg("run").arg("--config").arg(file.path()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", sluiced.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    let (_, known) = said
        .split_once("expected")
        .unwrap_or_else(|| panic!("{said}"));
    let known: BTreeSet<_> = known
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();

    let schema = fs::read(manifests().join("chart/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let config = schema["properties"]["config"]["properties"]
        .as_object()
        .unwrap();
    let mut offered: BTreeSet<_> = config.keys().cloned().collect();
    // The chart's own, what is text in its values, and what a service account makes needless.
    offered.extend(
        [
            "daemon-set",
            "kubeconfig",
            "log",
            "meshes",
            "metrics-address",
        ]
        .map(str::to_owned),
    );
    assert_eq!(offered, known);
}

/// The OCI layout of an image's archive, unpacked: a blob by its digest.
fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn image_has_a_manifest_for_each_architecture() {
    let work = tempfile::tempdir().unwrap();
    let roots = work.path().join("roots");
    for architecture in ["amd64", "arm64"] {
        let bin = roots.join(architecture).join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("sluiced"), architecture).unwrap();
    }
    let archive = work.path().join("image.tar");
    let mut make = Command::new(manifests().join("image.sh"));
    make.arg(&archive)
        .arg("sluice:1")
        .arg(&roots)
        .arg("/bin/sluiced");
    assert!(make.status().unwrap().success());
    let layout = work.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&archive).arg("-C").arg(&layout);
    assert!(unpack.status().unwrap().success());
    let top: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let index = blob(&layout, &top["manifests"][0]);
    let mut layers = BTreeSet::new();
    for (at, architecture) in ["amd64", "arm64"].into_iter().enumerate() {
        let descriptor = &index["manifests"][at];
        assert_eq!(descriptor["platform"]["architecture"], architecture);
        let manifest = blob(&layout, descriptor);
        let config = blob(&layout, &manifest["config"]);
        assert_eq!(config["architecture"], architecture);
        layers.insert(manifest["layers"][0]["digest"].to_string());
    }
    assert_eq!(layers.len(), 2);
}

#[test]
fn an_image_is_made_of_the_same_bytes_each_time() {
    let work = tempfile::tempdir().unwrap();
    let root = work.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    let mut made = BTreeSet::new();
    for name in ["first.tar", "second.tar"] {
        // Written anew: only its time changes.
        fs::write(root.join("bin/sluiced"), "a binary").unwrap();
        let out = work.path().join(name);
        let mut command = Command::new(manifests().join("image.sh"));
        command
            .arg(&out)
            .arg("sluice:1")
            .arg(&root)
            .arg("/bin/sluiced");
        assert!(command.status().unwrap().success());
        made.insert(fs::read(&out).unwrap());
    }
    assert_eq!(made.len(), 1);
}
