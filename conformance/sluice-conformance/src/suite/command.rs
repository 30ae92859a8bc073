//! `list`, `run` and `diff`.

use std::io::Write as _;

use anyhow::{Result, ensure};
use clap::Args;
use nix::{sys::utsname::uname, unistd::Uid};
use sluice_lab::{Binaries, backend::BackendKind, balancer::BalancerOptions, mesh::Mesh};
use sluice_testbed::{interrupt::Interrupt, terminal::step};

use crate::{
    demo,
    suite::{
        case,
        diff::{self, Comparison, Pair},
        expected_diff::{EXCEPTIONS, MEANT},
        fixture::Fixture,
        generate,
        report::{Format, Generated, Report},
        run::{self, Listed, Outcome},
        subject::Subject,
    },
};

/// Default number of random connections.
const CONNECTIONS: usize = 2000;
/// So many times the Pods that the connections would need.
const POD_LIMIT: usize = 2;
/// Differences that are shrunk; more have the same causes.
const SHRUNK: usize = 8;

/// The cases to run, and the subjects.
#[derive(Args)]
pub(crate) struct Run {
    /// Only this subject; without it all three, and the random connections.
    #[arg(long, value_enum)]
    backend: Option<BackendKind>,
    #[command(flatten)]
    common: Common,
}

/// The two subjects to compare, and the random cases.
#[derive(Args)]
pub(crate) struct Diff {
    /// The reference.
    #[arg(long, value_enum, default_value = "iptables")]
    one: BackendKind,
    /// The subject that is compared with it.
    #[arg(long, value_enum, default_value = "sluice")]
    other: BackendKind,
    #[command(flatten)]
    common: Common,
}

/// Common options of `run` and `diff`.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    binaries: Binaries,
    /// Only cases whose group and name, `GROUP: NAME`, contain this. May be repeated.
    #[arg(long = "case")]
    wanted: Vec<String>,
    #[command(flatten)]
    balancer: BalancerOptions,
    #[command(flatten)]
    random: Random,
    /// The output format.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Random Pods and connections.
#[derive(Args)]
struct Random {
    /// Seed of the random connections; may be repeated. Without one, a random seed, which is printed.
    #[arg(long = "seed")]
    seeds: Vec<u64>,
    /// How many connections for each seed [default: 2000, or none if cases are chosen].
    #[arg(long)]
    cases: Option<usize>,
}

/// Prints every case with its rules.
pub(crate) fn list() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<12} {:<74} RULES (docs/reference/rules.md)",
        "GROUP", "CASE"
    )?;
    for (group, case) in case::all() {
        writeln!(out, "{group:<12} {:<74} {}", case.name, case.source)?;
    }
    for row in demo::CASES {
        writeln!(
            out,
            "{:<12} {:<74} {}",
            run::ENVOY,
            row.name,
            run::ENVOY_SOURCE
        )?;
    }
    writeln!(out, "\nIntended differences from the rules:")?;
    for meant in MEANT {
        writeln!(out, "  {}: {}", meant.what, meant.why)?;
    }
    writeln!(out, "\nIntended differences of some Pods:")?;
    for exception in EXCEPTIONS {
        writeln!(out, "  {}", exception.what)?;
    }
    Ok(())
}

impl Run {
    /// Whether everything was as it should be.
    pub(crate) fn run(&self) -> Result<bool> {
        let interrupt = start()?;
        let mut report = Report::new()?;
        let backends = match self.backend {
            Some(one) => vec![one],
            None => vec![
                BackendKind::None,
                BackendKind::Iptables,
                BackendKind::Sluice,
            ],
        };
        for backend in backends {
            report.add(backend, self.common.listed(backend, &interrupt))?;
        }
        if self.backend.is_none() {
            let pair = [BackendKind::Iptables, BackendKind::Sluice];
            self.common.compare(pair, &mut report, &interrupt)?;
        }
        report.print(self.common.format)?;
        Ok(report.passed())
    }
}

impl Diff {
    /// Whether nothing differs that should not.
    pub(crate) fn run(&self) -> Result<bool> {
        let interrupt = start()?;
        let mut report = Report::new()?;
        let pair = [self.one, self.other];
        for backend in pair {
            report.add(backend, self.common.listed(backend, &interrupt))?;
        }
        self.common.compare(pair, &mut report, &interrupt)?;
        report.print(self.common.format)?;
        Ok(report.same())
    }
}

impl Common {
    /// The listed cases on one subject.
    fn listed(
        &self,
        backend: BackendKind,
        interrupt: &Interrupt,
    ) -> Result<(Vec<Outcome>, Vec<String>)> {
        let subject = Subject::beside(backend, &self.balancer);
        listed(&self.binaries, &subject, &self.wanted, interrupt)
    }

    /// Compares two subjects by the listed cases in the report, and by random connections.
    fn compare(
        &self,
        pair: [BackendKind; 2],
        report: &mut Report,
        interrupt: &Interrupt,
    ) -> Result<()> {
        report.compare(pair[0], pair[1]);
        let choices = pair.map(|backend| Subject::beside(backend, &self.balancer));
        let count = self.random.count(!self.wanted.is_empty());
        self.random
            .compare(&self.binaries, &choices, count, report, interrupt)
    }
}

impl Random {
    fn count(&self, chosen: bool) -> usize {
        self.cases.unwrap_or(if chosen { 0 } else { CONNECTIONS })
    }

    /// Two labs for all seeds.
    fn compare(
        &self,
        binaries: &Binaries,
        choices: &[Subject; 2],
        count: usize,
        report: &mut Report,
        interrupt: &Interrupt,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let seeds = match self.seeds.as_slice() {
            [] => &[fastrand::u64(..1_000_000)],
            seeds => seeds,
        };
        let mut pair = step("building two labs", || {
            Pair::build(binaries, choices, interrupt)
        })?;
        let mut compared = Ok(());
        for seed in seeds {
            let what = format!("trying {count} random connections, seed {seed}");
            let outcome = step(&what, || generated(&mut pair, *seed, count, interrupt));
            match outcome {
                Ok(generated) => report.generated.push(generated),
                Err(error) => {
                    compared = Err(error);
                    break;
                }
            }
        }
        report.left_behind.extend(pair.remove());
        compared
    }
}

fn start() -> Result<Interrupt> {
    ensure!(
        Uid::effective().is_root(),
        "needs root, to make namespaces and load BPF programs"
    );
    Interrupt::install()
}

/// Whether the kernel translates the users of a Pod with a user namespace: by an idmapped mount of tmpfs (Linux
/// 6.3). Sluice rejects such a Pod otherwise.
fn translates_users() -> bool {
    let Ok(kernel) = uname() else { return true };
    let release = kernel.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return true;
    };
    (major, minor) >= (6, 3)
}

/// The cases whose group and name contain one of these texts, all without one, with stand-ins and with real proxies.
fn listed(
    binaries: &Binaries,
    subject: &Subject,
    wanted: &[String],
    interrupt: &Interrupt,
) -> Result<(Vec<Outcome>, Vec<String>)> {
    let fits = |group: &str, name: &str| {
        let name = format!("{group}: {name}");
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part))
    };
    let (cases, later): (Vec<Listed>, Vec<_>) = case::all()
        .filter(|(group, case)| fits(group, case.name))
        .partition(|(_, case)| translates_users() || !(case.settings)().users);
    if !later.is_empty() {
        let count = later.len();
        eprintln!("left out: {count} cases of Pods with a user namespace, which need Linux 6.3");
    }
    let rows: Vec<_> = demo::CASES
        .iter()
        .filter(|row| fits(run::ENVOY, row.name))
        .collect();
    ensure!(
        !cases.is_empty() || !rows.is_empty(),
        "no case is called {wanted:?}: see sluice-conformance list"
    );
    let backend = subject.backend;
    let (mut outcomes, mut left) = (Vec::new(), Vec::new());
    for mesh in Mesh::ALL {
        let of_mesh = |(_, case): &&Listed| (case.settings)().mesh == mesh;
        let cases: Vec<_> = cases.iter().filter(of_mesh).copied().collect();
        if cases.is_empty() {
            continue;
        }
        let mut fixture = Fixture::build(binaries.resolve()?, subject, mesh, interrupt)?;
        let what = format!(
            "running {} cases of {} on {}",
            cases.len(),
            mesh.name(),
            backend.name()
        );
        let ran = step(&what, || run::run(&mut fixture, &cases, interrupt));
        left.extend(fixture.remove());
        outcomes.extend(ran?);
    }
    if !rows.is_empty() {
        let what = format!(
            "running {} cases with real proxies on {}",
            rows.len(),
            backend.name()
        );
        let (ran, remains) = step(&what, || {
            run::with_envoy(binaries.resolve()?, backend, &rows, interrupt)
        })?;
        left.extend(remains);
        outcomes.extend(ran);
    }
    Ok((outcomes, left))
}

fn generated(pair: &mut Pair, seed: u64, count: usize, interrupt: &Interrupt) -> Result<Generated> {
    let mut comparison = Comparison::default();
    // A Pod that one of the subjects refuses gives no connections.
    let pods = POD_LIMIT * count.div_ceil(generate::PER_POD);
    for mut random_case in generate::scenes(seed).take(pods) {
        random_case.settings.users &= translates_users();
        comparison.extend(pair.compare(&random_case, interrupt)?);
        if comparison.connections >= count {
            break;
        }
    }
    let mut shrunk = Vec::new();
    for difference in diff::distinct(comparison.unknown())
        .into_iter()
        .take(SHRUNK)
    {
        shrunk.push(pair.shrink(difference, interrupt)?);
    }
    Ok(Generated {
        seed,
        comparison,
        shrunk,
    })
}
