//! Checks of the daemon's answers. Pure.

use sluice_api::{Finding, PodView};

use super::{
    answers::{Answers, Reached},
    check::Check,
};

/// The time in seconds after which a proxy should listen.
const GRACE: u64 = 60;
/// The mean duration of an ADD in seconds that needs an explanation. The daemon itself needs
/// milliseconds.
const SLOW_ADD: f64 = 1.0;

/// Whether the daemon answers.
pub(super) fn reached(reached: &Reached) -> Check {
    match reached {
        Reached::Yes { .. } => Check::ok("daemon", "answers"),
        Reached::Hung => Check::problem(
            "daemon",
            "accepts connections and does not answer: it hangs",
            "send SIGKILL and start it again; Pods stay intercepted meanwhile, new Pods with a sidecar wait",
        ),
        Reached::NotRunning(error) => Check::problem(
            "daemon",
            format!("does not run: {error}"),
            "start it, and read its log ('kubectl logs --previous'); Pods stay intercepted meanwhile, new \
             Pods with a sidecar stay in ContainerCreating (code 11)",
        ),
    }
}

/// The daemon answers, and an answer cannot be read.
pub(super) fn unusable(error: &anyhow::Error) -> Check {
    Check::problem(
        "daemon",
        format!("a request failed: {error:#}"),
        "use 'sluiced doctor' of the daemon's own version; if it is, read the daemon's log",
    )
}

/// All checks of the answers.
pub(super) fn checks(answers: &Answers) -> Vec<Check> {
    let mut checks = vec![ready(answers)];
    checks.extend(remarks(answers));
    checks.extend([
        features(answers),
        foreign_programs(answers),
        hooks(answers),
        refused(answers),
        annotations(answers),
        listeners(&answers.pods),
        pending(answers),
        shares(&answers.pods),
        bypass(answers),
        latency(answers),
    ]);
    checks
}

fn ready(answers: &Answers) -> Check {
    let status = &answers.status;
    if status.ready {
        let found = format!("ready, version {}, ABI {}", status.version, status.abi);
        return Check::ok("readiness", found);
    }
    Check::problem(
        "readiness",
        format!("not ready: {}", status.problems.join("; ")),
        "new Pods with a sidecar stay in ContainerCreating until this is solved; missing hooks are attached \
         again within 30 s",
    )
}

/// The problems of single Pods and of foreign programs, which do not prevent an ADD.
fn remarks(answers: &Answers) -> Vec<Check> {
    let status = &answers.status;
    if !status.ready {
        return Vec::new();
    }
    let remark = |text: &String| {
        Check::warning(
            "remark",
            text.clone(),
            "'sluiced status' lists all; see docs/troubleshooting.md",
        )
    };
    status.problems.iter().map(remark).collect()
}

fn features(answers: &Answers) -> Check {
    let missing = answers.status.features.iter().filter(|one| !one.found);
    let missing: Vec<_> = missing
        .map(|one| format!("{}: {}", one.name, one.impact_if_missing))
        .collect();
    if missing.is_empty() {
        return Check::ok("features", "the kernel has every optional feature");
    }
    Check::ok(
        "features",
        format!(
            "optional kernel features are missing: {}",
            missing.join("; ")
        ),
    )
}

fn foreign_programs(answers: &Answers) -> Check {
    let programs = &answers.status.foreign_programs;
    let names = |first: bool| {
        let some = programs.iter().filter(|one| one.runs_first == first);
        let some = some.map(|one| format!("'{}' (id {}, {})", one.name, one.id, one.hook));
        some.collect::<Vec<_>>()
    };
    let (first, later) = (names(true), names(false));
    if !first.is_empty() {
        return Check::problem(
            "hook order",
            format!("foreign programs run before Sluice's: {}", first.join(", ")),
            "attach them at the root of the cgroup2 hierarchy without BPF_F_PREORDER; until then the proxy may \
             receive addresses that they wrote",
        );
    }
    if !later.is_empty() {
        let found = format!("foreign programs run after Sluice's: {}", later.join(", "));
        return Check::ok("hook order", found);
    }
    Check::ok("hook order", "no foreign programs at Sluice's hooks")
}

fn hooks(answers: &Answers) -> Check {
    let repairs = answers.metrics.sum("sluice_repairs_total{type=\"hooks\"}")
        + answers
            .metrics
            .sum("sluice_repairs_total{type=\"inbound_hook\"}");
    if repairs > 0.0 {
        return Check::warning(
            "hooks",
            format!(
                "another program detached Sluice's programs {repairs} times; they are attached again"
            ),
            "find the program with 'bpftool cgroup tree' and remove it: an older eBPF mesh agent is likely",
        );
    }
    Check::ok("hooks", "no program was detached")
}

fn refused(answers: &Answers) -> Check {
    let errors = answers
        .metrics
        .all("sluice_api_errors_total{path=\"/v1/add\"");
    let errors: Vec<_> = errors
        .map(|(labels, count)| {
            let code = labels
                .split("code=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            format!("{count} with code {}", code.unwrap_or("?"))
        })
        .collect();
    if errors.is_empty() {
        return Check::ok("refused Pods", "no ADD failed");
    }
    Check::warning(
        "refused Pods",
        format!("ADDs failed: {}", errors.join(", ")),
        "such Pods stay in ContainerCreating: 'kubectl describe pod' and the daemon's log name the cause, \
         docs/reference/cni.md the codes",
    )
}

fn annotations(answers: &Answers) -> Check {
    let status = &answers.status;
    match (
        status.adds_with_annotations,
        status.adds_without_annotations,
    ) {
        (0, 0) => Check::ok("annotations", "no ADD so far"),
        (_, 0) => Check::ok("annotations", "the runtime passes them"),
        (_, missing) => Check::warning(
            "annotations",
            format!("the runtime passed none with {missing} ADDs: the daemon asked the API server"),
            "use containerd 1.5 or CRI-O 1.29, or later, and check the entry's capability with \
             'sluice-install status'",
        ),
    }
}

fn listeners(pods: &[PodView]) -> Check {
    let silent = |pod: &&PodView| pod.meshed && pod.listeners == 0;
    let (young, old): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(silent)
        .partition(|pod| pod.age_seconds < GRACE);
    let meshed = pods.iter().filter(|pod| pod.meshed).count();
    let remedy = "connections to these Pods and from their applications are refused: read the sidecar's log \
                  ('kubectl logs --previous'); if it runs, compare its ports with the mesh's";
    if let Some(pod) = old.first() {
        return Check::problem(
            "sidecars",
            format!(
                "no proxy listens in {} of {meshed} Pods, among them {}",
                old.len() + young.len(),
                name(pod)
            ),
            remedy,
        );
    }
    if let Some(pod) = young.first() {
        let found = format!(
            "no proxy listens yet in {} new Pods, among them {}",
            young.len(),
            name(pod)
        );
        return Check::warning("sidecars", found, remedy);
    }
    Check::ok(
        "sidecars",
        format!("a proxy listens in all of {meshed} Pods"),
    )
}

fn pending(answers: &Answers) -> Check {
    let (pending, orphaned) = (answers.status.pending_pods, answers.status.orphaned_netns);
    if pending + orphaned == 0 {
        return Check::ok("pending Pods", "every namespace is known");
    }
    Check::warning(
        "pending Pods",
        format!(
            "{pending} Pods whose namespace is unknown, {orphaned} namespaces whose Pod is unknown"
        ),
        "inbound connections of pending Pods bypass their sidecars until the first outbound one: restart them",
    )
}

fn shares(pods: &[PodView]) -> Check {
    let mut full = pods.iter().filter(|pod| pod.alias_fallbacks > 0);
    let Some(first) = full.next() else {
        return Check::ok("map shares", "no Pod used up its share of alias addresses");
    };
    Check::warning(
        "map shares",
        format!(
            "{} of {} Pods used up their share of the map alias_to_dst, among them {}: {} connections had no \
             alias address",
            full.count() + 1,
            pods.len(),
            name(first),
            first.alias_fallbacks
        ),
        "nothing for correctness: such connections keep their destination in the socket, which costs more",
    )
}

fn bypass(answers: &Answers) -> Check {
    let audit = &answers.audit;
    if let Some(problem) = audit.problems.first() {
        return Check::warning(
            "bypass",
            format!(
                "{} Pods could not be audited: {problem}",
                audit.problems.len()
            ),
            "'sluiced audit' lists all",
        );
    }
    let Some(first) = audit.findings.first() else {
        let found = format!("all {} connections follow the rules", audit.connections);
        return Check::ok("bypass", found);
    };
    let Finding {
        pod, rule, peer, ..
    } = first;
    Check::problem(
        "bypass",
        format!(
            "connections past the sidecar: {}, among them one of {pod} with {peer}, against the rule {rule}",
            audit.findings.len() as u64 + audit.more
        ),
        "'sluiced audit' lists them; 'sluiced audit --kill' ends them; a restart of the Pod does as well",
    )
}

fn latency(answers: &Answers) -> Check {
    let sample = |part: &str| {
        let name = format!("sluice_api_request_duration_seconds_{part}{{path=\"/v1/add\"}}");
        answers.metrics.sum(&name)
    };
    let (sum, count) = (sample("sum"), sample("count"));
    let mean = if count > 0.0 { sum / count } else { 0.0 };
    if mean > SLOW_ADD {
        return Check::warning(
            "latency",
            format!("an ADD takes {mean:.1} s on average: Pods start slowly"),
            "the daemon waits for the API server, because the runtime passes no annotations or proxy-user is \
             pod-spec: see 'annotations' and 'API server'",
        );
    }
    let aliases = answers
        .metrics
        .sum("sluice_datapath_events_total{reason=\"outbound_no_alias\"}");
    if aliases > 0.0 {
        return Check::warning(
            "latency",
            format!("{aliases} connections had no alias address, and cost more"),
            "see 'map shares'",
        );
    }
    Check::ok(
        "latency",
        "ADDs are fast, and every connection has an alias address",
    )
}

fn name(pod: &PodView) -> String {
    format!("{}/{}", pod.pod.namespace, pod.pod.name)
}
