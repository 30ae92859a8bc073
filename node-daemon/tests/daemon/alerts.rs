//! Tests of the chart's alerts: a real daemon has the cause of each alert, and Prometheus' own rule
//! engine evaluates the chart's rules over the series that the daemon showed before and after it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sluice_api::{AddResponse, Status, path};

use crate::{
    api_server::{ApiServer, pod},
    balancer::Balancer,
    node::{Daemon, Pod},
    order,
    pods::add,
};

const PATIENCE: Duration = Duration::from_mins(1);
/// Minutes of the evaluated time: longer than any alert waits.
const MINUTES: u32 = 45;

/// The samples of a page, by series.
type Samples = BTreeMap<String, String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rule groups that the chart renders.
fn groups() -> Value {
    let directory = tempfile::tempdir().unwrap();
    let values = directory.path().join("values.json");
    fs::write(&values, r#"{"monitoring":{"enabled":true}}"#).unwrap();
    let output = Command::new(root().join("target/tools/manifests/bin/python"))
        .arg(root().join("install/manifests/render.py"))
        .args(["--json", "--values"])
        .arg(&values)
        .output()
        .expect("setup/manifests.sh installs it");
    let objects: Value = serde_json::from_slice(&output.stdout).unwrap();
    let is_rule = |object: &&Value| object["kind"] == "PrometheusRule";
    let rule = objects.as_array().unwrap().iter().find(is_rule).unwrap();
    json!({ "groups": rule["spec"]["groups"] })
}

/// Every alert with its expression.
fn alerts(groups: &Value) -> BTreeMap<String, String> {
    let rules = groups["groups"][0]["rules"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules
        .iter()
        .map(|rule| (text(&rule["alert"]), text(&rule["expr"])))
        .collect()
}

/// Prometheus' tool, as `setup/prometheus.sh` unpacks it.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Output {
    use std::io::Write as _;
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`setup/prometheus.sh` installs it");
    let mut stdin = tool.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    tool.wait_with_output().unwrap()
}

fn samples(daemon: &Daemon) -> Samples {
    let page = daemon.get(path::METRICS).body;
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.to_owned())
    };
    lines.map(split).collect()
}

/// The series of a node on which the change from `before` to `after` happens every minute.
fn input_series(expression: &str, before: &Samples, after: &Samples) -> Vec<Value> {
    let used = |series: &&String| expression.contains(series.split('{').next().unwrap());
    let number = |samples: &Samples, series: &String| -> i64 {
        samples
            .get(series)
            .map_or(0, |value| value.parse().unwrap())
    };
    let mut found = Vec::new();
    for series in after.keys().filter(used) {
        let (old, new) = (number(before, series), number(after, series));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let (begin, step) = if name.ends_with("_total") {
            (old, new - old)
        } else {
            (new, 0)
        };
        found.push(json!({
            "series": format!("{name}{{instance=\"node\",{labels}"),
            "values": format!("{begin}+{step}x{MINUTES}"),
        }));
    }
    found
}

/// Whether an alert fires with these series, by Prometheus' rule engine.
fn fires(alert: &str, series: &[Value]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        fs::write(directory.path().join(name), value.to_string()).unwrap();
    };
    write("rules.json", &groups());
    let firing = format!("count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}) > bool 0");
    let test = json!({
        "rule_files": ["rules.json"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [{
                "expr": firing,
                "eval_time": format!("{}m", MINUTES - 1),
                "exp_samples": [{ "labels": "{}", "value": 1 }],
            }],
        }],
    });
    write("test.json", &test);
    let file = directory.path().join("test.json");
    let output = promtool(&["test", "rules", file.to_str().unwrap()], "");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() || printed.contains("got:"),
        "{printed}"
    );
    output.status.success()
}

/// The alert is silent while nothing changes, and fires with the cause.
fn check(alert: &str, before: &Samples, after: &Samples) {
    let expression = &alerts(&groups())[alert];
    let quiet = input_series(expression, before, before);
    assert!(
        !fires(alert, &quiet),
        "{alert} fires without its cause: {quiet:?}"
    );
    let caused = input_series(expression, before, after);
    assert!(
        !caused.is_empty(),
        "{expression} uses no series of the daemon"
    );
    assert!(fires(alert, &caused), "{alert} does not fire: {caused:?}");
}

/// Waits until the samples fulfil a condition.
fn await_samples(daemon: &Daemon, what: impl Fn(&Samples) -> bool) -> Samples {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = samples(daemon);
        if what(&now) {
            return now;
        }
        assert!(Instant::now() < end, "{now:?}");
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn promtool_accepts_rules_and_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules.json");
    fs::write(&rules, groups().to_string()).unwrap();
    let output = promtool(&["check", "rules", rules.to_str().unwrap()], "");
    assert!(output.status.success(), "{output:?}");
    let (daemon, address) = crate::scrape::daemon("promtool", "");
    let (_, page) = crate::scrape::ask(address, "GET", path::METRICS, "");
    let output = promtool(&["check", "metrics"], &page);
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stderr.is_empty() && output.stdout.is_empty(),
        "{output:?}"
    );
    drop(daemon);
}

/// Each alert below has a test, and no other alert exists.
#[test]
fn every_alert_has_a_test() {
    let source = include_str!("alerts.rs");
    for alert in alerts(&groups()).keys() {
        let named = source.contains(&format!("\"{alert}\""));
        assert!(named, "no test makes the cause of {alert}");
    }
}

#[test]
fn refused_pods_alert() {
    let daemon = Daemon::start("alert-refused");
    let before = samples(&daemon);
    let mut request = add("one", "/nowhere", &[]);
    request.annotations = None;
    daemon.post(path::ADD, &request).api_error(503);
    check("SluicePodsRefused", &before, &samples(&daemon));
}

#[test]
fn silent_sidecar_alerts() {
    let daemon = Daemon::start("alert-silent");
    let before = samples(&daemon);
    let home = Pod::new("alert-silent", &["10.1.0.1/24"]);
    let request = add("one", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    check("SluiceSidecarDoesNotListen", &before, &samples(&daemon));
}

#[test]
fn pending_pod_alerts() {
    let injected = ("sidecar.istio.io/status", "{}");
    let server = ApiServer::start(vec![pod("cart", &["10.1.0.1"], &[injected])]);
    let directory = tempfile::tempdir().unwrap();
    let quiet = Daemon::start("alert-none");
    let before = samples(&quiet);
    let config = server.kubeconfig(directory.path(), "first");
    let daemon = Daemon::configured("alert-pending", &config);
    let after = await_samples(&daemon, |now| now["sluice_pending_pods"] == "1");
    check("SluicePodsPending", &before, &after);
}

#[test]
fn detached_programs_alert() {
    let daemon = Daemon::start("alert-detached");
    let before = samples(&daemon);
    let hooks = fs::read_dir(daemon.pins())
        .unwrap()
        .flatten()
        .find(|one| one.file_name().to_string_lossy().starts_with('v'));
    fs::remove_file(hooks.unwrap().path().join("hooks/sock_ops")).unwrap();
    let after = await_samples(&daemon, |now| {
        now["sluice_repairs_total{type=\"hooks\"}"] == "1"
    });
    check("SluiceProgramsDetached", &before, &after);
}

#[test]
fn foreign_program_alerts() {
    let daemon = Daemon::start("alert-foreign");
    let before = samples(&daemon);
    // A program of the Pods' own cgroup, as old kernels order it.
    let cgroup = daemon.cgroup().join("one");
    fs::create_dir(&cgroup).unwrap();
    order::await_children(&daemon, 1);
    let _balancer = Balancer::attach_first(&cgroup);
    let is_first =
        |(series, value): (&String, &String)| series.contains("order=\"before\"") && value != "0";
    let after = await_samples(&daemon, |now| now.iter().any(is_first));
    check("SluiceForeignProgramFirst", &before, &after);
}

/// Programs that talk to the proxy's port, in the daemon's cgroup.
const DIRECT: &str = "
proxy = socket.create_server(('0.0.0.0', 15001))
one = socket.create_connection(('127.0.0.1', 15001))
two, _ = proxy.accept()
print('connected')";

#[test]
fn missing_destination_alerts() {
    let daemon = Daemon::start("alert-missing");
    let home = Pod::new("alert-missing", &["10.1.0.1/24"]);
    let request = add("one", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let before = samples(&daemon);
    // The proxy's user connects to the proxy's listener: nothing was redirected.
    assert_eq!(home.run(&daemon, 1337, DIRECT), "connected\n");
    check(
        "SluiceOriginalDestinationMissing",
        &before,
        &samples(&daemon),
    );
}

/// A mesh whose connections keep their destination in socket storage.
const STORING: &str = "
mesh = 'mine'
[meshes.mine]
uid = 1337
outbound-port = 15001
inbound-port = 15006
proxy-listens-on-localhost-only = true
sidecar-annotation = 'sidecar.istio.io/status'
";

#[test]
fn refused_connections_alert() {
    let daemon = Daemon::configured("alert-storage", STORING);
    let home = Pod::new("alert-storage", &["10.1.0.1/24"]);
    let request = add("one", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let before = samples(&daemon);
    // Socket storage is charged to the memory of options.
    home.sysctl("net.core.optmem_max=1");
    let program = "one = socket.socket()\nprint(one.connect_ex(('10.1.0.9', 8080)))";
    assert_eq!(home.run(&daemon, 1000, program), "1\n", "EPERM");
    check("SluiceConnectionsRefused", &before, &samples(&daemon));
}

/// More destinations than the share of a Pod.
const DESTINATIONS: &str = "
for number in range(4600):
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(('10.2.%d.%d' % (number // 200, number % 200 + 1), 80))
    one.close()
print('done')";

#[test]
fn used_share_alerts() {
    let daemon = Daemon::start("alert-share");
    let home = Pod::new("alert-share", &["10.1.0.1/24"]);
    let request = add("one", &home.path(), &["10.1.0.1"]);
    assert!(daemon.post(path::ADD, &request).ok::<AddResponse>().meshed);
    let before = samples(&daemon);
    assert_eq!(home.run(&daemon, 1000, DESTINATIONS), "done\n");
    assert!(daemon.get(path::STATUS).ok::<Status>().ready);
    check("SluiceMapFull", &before, &samples(&daemon));
}

/// Their series come from kube-state-metrics.
#[test]
fn alerts_of_the_daemon_set_fire() {
    let series = |name: &str, value: u32| {
        let labels = "namespace=\"kube-system\",daemonset=\"sluice\"";
        json!({ "series": format!("{name}{{{labels}}}"), "values": format!("{value}+0x{MINUTES}") })
    };
    for (unavailable, fired) in [(0, false), (1, true)] {
        let series = [series(
            "kube_daemonset_status_number_unavailable",
            unavailable,
        )];
        assert_eq!(fires("SluiceDaemonUnavailable", &series), fired);
    }
    for (updated, fired) in [(3, false), (2, true)] {
        let series = [
            series("kube_daemonset_status_updated_number_scheduled", updated),
            series("kube_daemonset_status_desired_number_scheduled", 3),
        ];
        assert_eq!(fires("SluiceUpgradeStalled", &series), fired);
    }
}
