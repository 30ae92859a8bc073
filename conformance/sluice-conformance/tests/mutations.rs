//! Faults are planted into a copy of the sources, one at a time; the suite must find each.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect by failing"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::{self, ScopedJoinHandle},
    time::SystemTime,
};

use serde_json::Value;
use sluice_testbed::workspace;

/// A fault: in a file, one text for another, and the case that must fail with it.
struct Fault {
    what: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    case: &'static str,
}

impl Fault {
    /// Its text is in its file once.
    fn check(&self, sound: &str) {
        let Self {
            what, file, from, ..
        } = self;
        let places = sound.matches(from).count();
        assert_eq!(places, 1, "{what}: {from:?} is not in {file} once");
    }
}

/// Of every package of the workspace.
const VERSION: &str = concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"");

const DECIDE: &str = "ebpf/sluice-abi/src/decide.rs";
const CONNECT: &str = "ebpf/programs/src/connect.rs";
const OUTBOUND: &str = "ebpf/programs/src/outbound.rs";
const ORIGINAL_SOURCE: &str = "ebpf/programs/src/original_source.rs";
const INBOUND: &str = "ebpf/programs/src/inbound.rs";
const INSIDE: &str = "node-daemon/src/pods/manager/netns_facts.rs";
const THROUGH: &str = "outbound: a server is reached through the proxy";

const FAULTS: &[Fault] = &[
    Fault {
        what: "the proxy's group is ignored",
        file: DECIDE,
        from: "self.gid == pod.proxy_gid",
        to: "self.gid == pod.proxy_gid && false",
        case: "owner: a process with the proxy's group connects directly",
    },
    Fault {
        what: "v4-mapped addresses are not folded",
        file: CONNECT,
        from: "if !datagram && !context::is_tcp(ctx) {",
        to: "if !datagram && !context::is_tcp(ctx) || context::read!(ctx.sock_addr, user_family) == 10 && context::destination::<F>(ctx).addr.is_v4() {",
        case: THROUGH,
    },
    Fault {
        what: "a proxy that keeps its client's address reaches its own listener",
        file: ORIGINAL_SOURCE,
        from: "set_option(ctx, SO_MARK, &mut mark) && set_option(ctx, SO_BINDTODEVICE, &mut device)",
        to: "set_option(ctx, SO_MARK, &mut mark) && device.len() == 4",
        case: "transparent: the application sees the client's address",
    },
    Fault {
        what: "connections that the proxy accepts take the mark of rules",
        file: ORIGINAL_SOURCE,
        from: "pod.source_mark != 0 && !sk.is_null() && read!(sk, mark) == 0",
        to: "false && pod.source_mark != 0 && !sk.is_null() && read!(sk, mark) == 0",
        case: "transparent: the same with Istio's rules in the Pod",
    },
    Fault {
        what: "an excluded outbound port is redirected",
        file: OUTBOUND,
        from: "filter::excludes_port(pod, dst.port)",
        to: "false && filter::excludes_port(pod, dst.port)",
        case: "outbound: an excluded port is direct",
    },
    Fault {
        what: "an excluded inbound port is redirected",
        file: DECIDE,
        from: "(listed && !only_listed)",
        to: "false",
        case: "inbound: an excluded port is not redirected",
    },
    Fault {
        what: "tunnels are redirected",
        file: DECIDE,
        from: "let tunnel = facts.has(Facts::TO_TUNNEL)",
        to: "let tunnel = false && facts.has(Facts::TO_TUNNEL)",
        case: "inbound: 15008 reaches the application",
    },
    Fault {
        what: "the proxy's call to its own Pod is not redirected",
        file: DECIDE,
        from: "if by_proxy(facts) && !excepted",
        to: "if false && by_proxy(facts) && !excepted",
        case: "owner: the proxy that calls its own Pod is redirected",
    },
    Fault {
        what: "the proxy's source address towards its application is not recognised",
        file: DECIDE,
        from: "return Some(Verdict::Direct(Reason::OutboundPassthrough));",
        to: "",
        case: "owner: the proxy that calls its own Pod from its passthrough source is not redirected",
    },
    Fault {
        what: "an outbound connection over an excluded interface is redirected",
        file: DECIDE,
        from: "if facts.has(Facts::BYPASS) && !facts.has(Facts::VIA_LO) {",
        to: "if false && facts.has(Facts::BYPASS) && !facts.has(Facts::VIA_LO) {",
        case: "interfaces: a connection over an excluded interface is direct",
    },
    Fault {
        what: "an inbound connection over an excluded interface is redirected",
        file: DECIDE,
        from: "if from.facts.has(Facts::BYPASS) {",
        to: "if false && from.facts.has(Facts::BYPASS) {",
        case: "interfaces: a connection from an excluded interface is not redirected",
    },
    Fault {
        what: "without a proxy peers reach the application",
        file: INBOUND,
        from: "Reason::InboundNoProxy);\n        SK_DROP",
        to: "Reason::InboundNoProxy);\n        SK_PASS",
        case: "inbound: without a proxy the peer is refused",
    },
    Fault {
        what: "the client is shown the proxy as its peer",
        file: "ebpf/programs/src/orig_dst.rs",
        from: "let dst = dst_alias::lookup(ctx, peer)",
        to: "let dst = None",
        case: THROUGH,
    },
    Fault {
        what: "the alias address does not identify the destination",
        file: "ebpf/programs/src/orig_dst.rs",
        from: "dst_alias::lookup(ctx, Ends::local(sk))",
        to: "dst_alias::lookup(ctx, Ends::remote(sk))",
        case: THROUGH,
    },
    Fault {
        what: "a destination without an alias does not reach the proxy",
        file: "ebpf/programs/src/sockops.rs",
        from: "        take_orig_dst(ctx, conn);",
        to: "        let _ = (take_orig_dst, conn);",
        case: "meshes: linkerd: a server is reached through the proxy",
    },
    Fault {
        what: "the proxy sees a loopback address as the client",
        file: "node-daemon/src/pods/apply.rs",
        from: "refused.extend(netns.install_local_routes(&gone, &new)?);",
        to: "let _: (Vec<ipnet::IpNet>, Vec<SourceRoute>) = (gone, new); refused.truncate(refused.len());",
        case: THROUGH,
    },
    Fault {
        what: "a proxy on localhost only sees a loopback address as the client",
        file: CONNECT,
        from: "let _keeps_its_route = F::bind(ctx.sock_addr, source_addr);",
        to: "let _ = F::bind;",
        case: "meshes: linkerd: a server is reached through the proxy",
    },
    Fault {
        what: "a default stays beside the list that replaces it",
        file: "node-daemon/src/pods/policy/stated.rs",
        from: "policy.excluded_outbound = ports(pod, key, list)?;",
        to: "policy.excluded_outbound.extend(ports(pod, key, list)?);",
        case: "outbound: an explicit list replaces 15020",
    },
    Fault {
        what: "an empty list of ranges is read as all",
        file: "node-daemon/src/pods/policy/stated.rs",
        from: ".filter(|(_, list)| list.trim() != ALL)",
        to: ".filter(|(_, list)| ![ALL, \"\"].contains(&list.trim()))",
        case: "outbound: an empty list of ranges redirects nothing",
    },
    Fault {
        what: "included networks have precedence over excluded ones",
        file: DECIDE,
        from: "if facts.has(Facts::CIDR_EXCLUDED) {",
        to: "if facts.has(Facts::CIDR_EXCLUDED) && !facts.has(Facts::CIDR_INCLUDED) {",
        case: "outbound: an excluded address inside an included range is direct",
    },
    Fault {
        what: "the routes of an excluded interface are not followed",
        file: INSIDE,
        from: "Bypass::from_interfaces(&policy.excluded_interfaces, interfaces, &routes)?",
        to: "{ let _ = Bypass::from_interfaces(&[], interfaces, &routes)?; Bypass::default() }",
        case: "interfaces: a connection over an excluded interface is direct",
    },
    Fault {
        what: "the routes of a Pod with several addresses are not read",
        file: INSIDE,
        from: "if source_addr::is_ambiguous(interfaces) {",
        to: "if false && source_addr::is_ambiguous(interfaces) {",
        case: "interfaces: a connection over a second interface is redirected unless excluded",
    },
    Fault {
        what: "addresses that CNI did not report are not listed",
        file: INSIDE,
        from: "own_addresses: own_addrs::of_netns(interfaces),",
        to: "own_addresses: own_addrs::of_netns(&[]),",
        case: "host: the proxy that calls an unreported address of its Pod is redirected",
    },
    Fault {
        what: "the users of a Pod are not mapped to the host's",
        file: INSIDE,
        from: "let (uid, gid) = (users.user(policy.uid), users.group(policy.gid));",
        to: "let (uid, gid) = (Some(policy.uid), Some(policy.gid));",
        case: "host: the proxy of a Pod with a user namespace connects directly",
    },
];

#[test]
fn every_fault_has_one_place() {
    for fault in FAULTS {
        fault.check(&fs::read_to_string(workspace::root().join(fault.file)).unwrap());
    }
}

#[test]
#[ignore = "builds the daemon 25 times: make faults"]
fn every_planted_fault_is_found() {
    let tree = Tree::copy();
    let sound = tree.build("sound");
    let cases: Vec<_> = FAULTS.iter().map(|fault| fault.case).collect();
    let already = failing(&sound, &cases);
    assert!(
        already.is_empty(),
        "these fail without any fault: {already:?}"
    );
    // The suite waits more than it computes: it runs while the next daemon is built.
    let mut missed = Vec::new();
    thread::scope(|scope| {
        let mut earlier: Option<ScopedJoinHandle<'_, _>> = None;
        for (number, fault) in FAULTS.iter().enumerate() {
            let daemon = tree.plant(fault, number);
            let run = move || (fault.what, failing(&daemon, &[fault.case]).is_empty());
            missed.extend(earlier.map(|run| run.join().unwrap()));
            earlier = Some(scope.spawn(run));
        }
        missed.extend(earlier.map(|run| run.join().unwrap()));
    });
    let missed: Vec<_> = missed.iter().filter(|(_, missed)| *missed).collect();
    assert!(
        missed.is_empty(),
        "the suite does not find these: {missed:#?}"
    );
}

/// A copy of the sources. Its dependencies are those of the sources themselves, so both use one build directory. To
/// cargo a package of the same name, version and place in its workspace is the same package: the copy has another version.
struct Tree {
    root: PathBuf,
    path: PathBuf,
}

impl Tree {
    fn copy() -> Self {
        let root = workspace::root();
        let path = root.join("target/mutations");
        fs::create_dir_all(&path).unwrap();
        // With the times of the files, so that cargo builds again only what differs.
        // Files that are no longer there must not stay.
        let copy = "find \"$2\" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} + && tar -C \"$1\" --exclude=./target --exclude=./.git --exclude=target -cf - . | tar -C \"$2\" -xf -";
        let output = Command::new("sh")
            .args(["-ec", copy, "sh"])
            .arg(&root)
            .arg(&path)
            .output();
        succeed("the copy of the sources", &output.unwrap());
        renumber(&path.join("Cargo.toml"), "");
        // The kernel programs have a lock file of their own, and use one crate of the workspace.
        renumber(
            &path.join("ebpf/programs/Cargo.lock"),
            "name = \"sluice-abi\"\n",
        );
        // What an earlier run built of them may have its last fault.
        for Fault { file, .. } in FAULTS {
            let file = fs::File::options().append(true).open(path.join(file));
            file.unwrap().set_modified(SystemTime::now()).unwrap();
        }
        Self { root, path }
    }

    /// Builds the daemon. Returns a copy of it, which stays when the next one is built.
    fn build(&self, name: &str) -> PathBuf {
        let tools = self.root.join("target/tools/bin");
        let search = format!("{}:{}", tools.display(), env::var("PATH").unwrap());
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", "workspace-hack", "-p", "sluiced"])
            .current_dir(&self.path);
        // The outer cargo describes a package of its own; the profile is the same.
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
            if name != "CARGO_HOME" && !name.starts_with("CARGO_PROFILE_") {
                cargo.env_remove(name);
            }
        }
        cargo
            .env("PATH", search)
            .env("CARGO_TARGET_DIR", self.path.join("target"))
            .env("CARGO_BUILD_BUILD_DIR", self.root.join("target"));
        succeed("the build", &cargo.output().unwrap());
        let daemon = self.path.join(format!("target/sluiced-{name}"));
        fs::copy(self.path.join("target/debug/sluiced"), &daemon).unwrap();
        daemon
    }

    /// Plants a fault, builds the daemon, and takes the fault out again.
    fn plant(&self, fault: &Fault, number: usize) -> PathBuf {
        let file = self.path.join(fault.file);
        let sound = fs::read_to_string(&file).unwrap();
        fault.check(&sound);
        println!("{} of {}: {}", number + 1, FAULTS.len(), fault.what);
        fs::write(&file, sound.replace(fault.from, fault.to)).unwrap();
        let daemon = self.build(&number.to_string());
        fs::write(&file, sound).unwrap();
        daemon
    }
}

/// Gives the packages of a manifest, or one package of a lock file, another version.
fn renumber(file: &Path, package: &str) {
    let original = fs::read_to_string(file).unwrap();
    let version = |version: &str| format!("{package}{version}");
    let renumbered = original.replacen(&version(VERSION), &version("version = \"0.0.0\""), 1);
    assert_ne!(renumbered, original, "{}", file.display());
    fs::write(file, renumbered).unwrap();
}

/// Those of the cases that fail on this daemon. Removes it.
fn failing<'a>(daemon: &Path, cases: &[&'a str]) -> Vec<&'a str> {
    let mut suite = conformance(&["run", "--backend", "sluice", "--format", "json"]);
    for case in cases {
        suite.args(["--case", case]);
    }
    let output = suite.env("SLUICED", daemon).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "no report ({error}): {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    fs::remove_file(daemon).unwrap();
    let outcomes = report["backends"]["sluice"].as_array().unwrap();
    assert!(
        output.status.success() || outcomes.iter().any(|one| one["passed"] == false),
        "the suite fails, but no case does: {report:#}"
    );
    let failed = |case: &&str| {
        let named = |one: &&Value| {
            let [group, name] = ["group", "name"].map(|key| one[key].as_str().unwrap());
            **case == format!("{group}: {name}")
        };
        outcomes.iter().find(named).unwrap()["passed"] == false
    };
    cases.iter().copied().filter(failed).collect()
}

fn succeed(what: &str, output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed: {said}");
}

fn conformance(arguments: &[&str]) -> Command {
    workspace::command(env!("CARGO_BIN_EXE_sluice-conformance"), arguments)
}
