//! The rows of Linkerd with the real linkerd2-proxy in each Pod, with `disableIPv6` and without. The
//! proxies of the mesh speak TLS with each other; the default policy applies.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use sluice_api::{AddResponse, path};
use tempfile::TempDir;

use super::{
    super::load::DIAL,
    SUBJECTS, Subject, binary,
    control_plane::{self, Authority},
    network::{CLIENT, NAMES, Network, OUTSIDE, PORT, SERVER, address, serve},
    rules,
};
use crate::{node::Daemon, pods::add, wait};

const PATIENCE: Duration = Duration::from_mins(1);
/// The proxy's user and its outbound port.
const PROXY: u32 = 2102;
const OUTBOUND: u16 = 4140;
/// A port without an application, and one that Linkerd's default lists skip.
const CLOSED: u16 = 8081;
const SKIPPED: u16 = 4567;
/// The application's port on which the proxy detects no protocol: the application speaks first.
pub(super) const OPAQUE: u16 = 8082;

/// A connection: its name, the Pods of both ends (`None`: loopback), and the port.
type Row = (&'static str, usize, Option<usize>, u16);

const ROWS: [Row; 10] = [
    ("the Pod's address, in the mesh", CLIENT, Some(SERVER), PORT),
    ("the Pod's own address", SERVER, Some(SERVER), PORT),
    ("loopback", SERVER, None, PORT),
    ("into the mesh", OUTSIDE, Some(SERVER), OPAQUE),
    ("out of the mesh", CLIENT, Some(OUTSIDE), PORT),
    ("a closed port in the mesh", CLIENT, Some(SERVER), CLOSED),
    ("a closed port from outside", OUTSIDE, Some(SERVER), CLOSED),
    ("a closed port outside", CLIENT, Some(OUTSIDE), CLOSED),
    (
        "a closed port of the Pod itself",
        SERVER,
        Some(SERVER),
        CLOSED,
    ),
    ("a skipped port", OUTSIDE, Some(SERVER), SKIPPED),
];

/// The proxies of a run, which end with it.
pub(super) struct Proxies(pub(super) Vec<Child>);

impl Drop for Proxies {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

/// Starts the proxy of a Pod, with the services that it needs.
pub(super) fn start_proxy(
    network: &Network,
    index: usize,
    (binary, files): (&Path, &Path),
    authority: &Authority,
    v6: bool,
) -> Child {
    let documents = files.join(NAMES[index]);
    fs::create_dir(&documents).unwrap();
    authority.serve(&network.pods[index], &documents);
    let log = File::create(files.join(format!("{}.log", NAMES[index]))).unwrap();
    let any = if v6 { "[::]" } else { "0.0.0.0" };
    let outbound = if v6 {
        "127.0.0.1:4140,[::1]:4140"
    } else {
        "127.0.0.1:4140"
    };
    let ips = format!("{},{}", address(index, false), address(index, true));
    let token = documents.join("token");
    let variables: [(&str, &str); 20] = [
        ("LOG", "info,linkerd=info"),
        ("INBOUND_LISTEN_ADDR", &format!("{any}:4143")),
        ("OUTBOUND_LISTEN_ADDRS", outbound),
        ("CONTROL_LISTEN_ADDR", &format!("{any}:4190")),
        ("ADMIN_LISTEN_ADDR", &format!("{any}:4191")),
        ("DESTINATION_SVC_ADDR", control_plane::DESTINATION),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8,fd00::/8"),
        ("POLICY_SVC_ADDR", control_plane::POLICY),
        ("POLICY_WORKLOAD", "shop:pod"),
        ("POLICY_CLUSTER_NETWORKS", "10.0.0.0/8,fd00::/8"),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated"),
        (
            "INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
            &OPAQUE.to_string(),
        ),
        ("INBOUND_IPS", &ips),
        ("INBOUND_DETECT_TIMEOUT", "100ms"),
        ("OUTBOUND_DETECT_TIMEOUT", "100ms"),
        ("IDENTITY_DIR", documents.to_str().unwrap()),
        ("IDENTITY_TRUST_ANCHORS", &authority.anchor),
        ("IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
        ("IDENTITY_LOCAL_NAME", control_plane::NAME),
        ("IDENTITY_SVC_ADDR", control_plane::IDENTITY),
    ];
    let variables = variables.map(|(name, value)| (format!("LINKERD2_PROXY_{name}"), value));
    network
        .command_as(index, PROXY)
        .arg(binary)
        .envs(variables)
        .stdout(log.try_clone().unwrap())
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap()
}

/// Adds a Pod to the daemon, with more annotations.
pub(super) fn enroll(daemon: &Daemon, network: &Network, index: usize, more: &[(&str, &str)]) {
    let addresses = [address(index, false), address(index, true)];
    let addresses = addresses.each_ref().map(String::as_str);
    let mut request = add(NAMES[index], &network.pods[index].path(), &addresses);
    let injected = [("linkerd.io/proxy-version", "edge-26.1.1")];
    let annotations = injected.iter().chain(more);
    let annotations = annotations.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    request.annotations = Some(annotations.collect());
    let answer: AddResponse = daemon.post(path::ADD, &request).ok();
    assert!(answer.meshed);
}

/// A directory that the proxies may read.
pub(super) fn directory() -> TempDir {
    let permissions = fs::Permissions::from_mode(0o755);
    let mut builder = tempfile::Builder::new();
    builder.permissions(permissions).tempdir().unwrap()
}

/// The Pods with their proxies.
pub(super) struct Linkerd {
    pub(super) network: Network,
    _daemon: Option<Daemon>,
    _proxies: Proxies,
    _files: TempDir,
}

impl Linkerd {
    /// `keys` are more keys of the daemon's configuration.
    pub(super) fn start(subject: Subject, v6: bool, binary: &Path, keys: &str) -> Self {
        let test = format!("l5d-{subject:?}-{v6}").to_lowercase();
        let mut network = Network::new(&test);
        if subject.has_rules() {
            for home in &network.pods[..OUTSIDE] {
                rules::write_linkerd(home, v6, "");
            }
        }
        let families = if v6 { "families = 'both'\n" } else { "" };
        let daemon = subject
            .has_daemon()
            .then(|| Daemon::configured(&test, &format!("mesh = 'linkerd'\n{keys}{families}")));
        if let Some(daemon) = &daemon {
            network.members = daemon.members();
            for index in [CLIENT, SERVER] {
                enroll(daemon, &network, index, &[]);
            }
        }
        let files = directory();
        let authority = Authority::new();
        let start = |index| start_proxy(&network, index, (binary, files.path()), &authority, v6);
        let proxies = Proxies([CLIENT, SERVER].map(start).into());
        let listens = |index| network.listeners(index, OUTBOUND) > 0;
        let log = || fs::read_to_string(files.path().join("server.log")).unwrap();
        wait::until_within(
            PATIENCE,
            || [CLIENT, SERVER].into_iter().all(listens),
            || format!("the proxy does not listen: {}", log()),
        );
        Self {
            network,
            _daemon: daemon,
            _proxies: proxies,
            _files: files,
        }
    }
}

/// The outcomes of all rows for both families.
fn outcomes(subject: Subject, v6: bool, binary: &Path) -> Vec<[String; 2]> {
    let Linkerd { ref network, .. } = Linkerd::start(subject, v6, binary, "");
    serve(&network.pods[SERVER], OPAQUE);
    let outcome = |(_, from, to, port): &Row, v6: bool| {
        let loopback = if v6 { "::1" } else { "127.0.0.1" };
        let to = to.map_or_else(|| loopback.to_owned(), |index| address(index, v6));
        network.run(*from, &format!("{DIAL}print(dial('{to}', {port}), end='')"))
    };
    ROWS.iter()
        .map(|row| [false, true].map(|v6| outcome(row, v6)))
        .collect()
}

#[test]
fn linkerd_rows_equal_those_of_linkerd_rules() {
    let Some(binary) = binary("LINKERD2_PROXY") else {
        return;
    };
    let mut failures = Vec::new();
    println!(
        "| Row | disableIPv6 | Family | none | rules | Sluice | both |\n|---|---|---|---|---|---|---|"
    );
    for v6 in [false, true] {
        let [none, rules, sluice, beside] = SUBJECTS.map(|subject| outcomes(subject, v6, &binary));
        assert_ne!(none, rules, "the control is not another one");
        for (index, (name, ..)) in ROWS.iter().enumerate() {
            for (family, family_name) in ["IPv4", "IPv6"].into_iter().enumerate() {
                let [none, rules, sluice, beside] =
                    [&none, &rules, &sluice, &beside].map(|all| &all[index][family]);
                println!(
                    "| {name} | {} | {family_name} | {none} | {rules} | {sluice} | {beside} |",
                    !v6
                );
                if rules != sluice || rules != beside {
                    failures.push(format!("{name}, {family_name}, disableIPv6={}", !v6));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}
