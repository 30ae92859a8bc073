//! Running the listed cases on one subject.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;
use sluice_lab::{Binaries, Lab, backend::BackendKind, pod_annotations::PodAnnotations};
use sluice_testbed::interrupt::Interrupt;

use crate::{
    demo::{
        self,
        row::{self, Row},
    },
    suite::{
        case::{Case, Expect},
        diff::Difference,
        fixture::Fixture,
        observation::Observation,
    },
};

/// The group of the cases with real proxies.
pub(crate) const ENVOY: &str = "envoy";
/// Their rule in `docs/reference/rules.md`.
pub(crate) const ENVOY_SOURCE: &str = "E1";

/// How a case went on a subject.
#[derive(Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) source: &'static str,
    /// The outcome is the expected one.
    pub(crate) passed: bool,
    /// Whether the result is the expected one: without interception, cases that need it must fail.
    pub(crate) as_it_should: bool,
    /// Each thing that differs from the promise.
    pub(crate) wrong: Vec<String>,
    /// The observations, for each family.
    pub(crate) views: Vec<Option<Observation>>,
    #[serde(skip)]
    case: Option<&'static Case>,
}

/// A listed case and its group.
pub(crate) type Listed = (&'static str, &'static Case);

/// Runs the cases, one Pod for all with the same settings.
pub(crate) fn run(
    fixture: &mut Fixture,
    cases: &[Listed],
    interrupt: &Interrupt,
) -> Result<Vec<Outcome>> {
    let mut by_settings: BTreeMap<PodAnnotations, Vec<usize>> = BTreeMap::new();
    for (index, (_, case)) in cases.iter().enumerate() {
        by_settings
            .entry((case.settings)())
            .or_default()
            .push(index);
    }
    let mut outcomes: Vec<Option<Outcome>> = cases.iter().map(|_| None).collect();
    for (settings, indices) in by_settings {
        interrupt.check()?;
        let group: Vec<_> = indices.iter().map(|index| cases[*index]).collect();
        let results = together(fixture, settings, &group, interrupt)?;
        for (index, result) in indices.into_iter().zip(results) {
            outcomes[index] = Some(result);
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

fn together(
    fixture: &mut Fixture,
    settings: PodAnnotations,
    cases: &[Listed],
    interrupt: &Interrupt,
) -> Result<Vec<Outcome>> {
    let backend = fixture.backend;
    let judge = |listed: &Listed, wrong, views| Outcome::new(backend, *listed, wrong, views);
    let test_pod = match fixture.admit(settings, interrupt) {
        Ok(test_pod) => test_pod,
        Err(error) => {
            let said = format!("{error:#}");
            return Ok(cases
                .iter()
                .map(|listed| judge(listed, not_admitted(listed.1.expect, &said), Vec::new()))
                .collect());
        }
    };
    let asks: Vec<_> = cases.iter().map(|(_, case)| case.asks()).collect();
    let mut views = fixture.observe(&test_pod, &asks.concat())?.into_iter();
    let bypassing = fixture.lab.backend.audit()?;
    ensure!(
        bypassing.is_empty(),
        "connections past the proxy: {}",
        Value::from(bypassing)
    );
    let mut outcomes = Vec::new();
    for (listed, asks) in cases.iter().zip(&asks) {
        let views: Vec<_> = views.by_ref().take(asks.len()).collect();
        let mut wrong = Vec::new();
        if let Expect::NotAdmitted(_) = listed.1.expect {
            wrong.push("the Pod was admitted".to_owned());
        }
        for (ask, view) in asks.iter().zip(&views) {
            match (fixture.asked(&test_pod, *ask), view) {
                (Some(asked), Some(view)) => {
                    wrong.extend(listed.1.check(*ask, &asked, view));
                }
                _ => wrong.push(format!("{:?}: the Pod lacks an address", ask.family)),
            }
        }
        outcomes.push(judge(listed, wrong, views));
    }
    test_pod.remove(&fixture.lab)?;
    Ok(outcomes)
}

impl Outcome {
    fn new(
        backend: BackendKind,
        (group, case): Listed,
        wrong: Vec<String>,
        views: Vec<Option<Observation>>,
    ) -> Self {
        let passed = wrong.is_empty();
        let expected = backend != BackendKind::None || !case.expect.needs_interception();
        Self {
            group,
            name: case.name.to_owned(),
            source: case.source,
            passed,
            as_it_should: passed == expected,
            wrong,
            views,
            case: Some(case),
        }
    }

    /// The differences to another subject.
    pub(crate) fn differences(&self, other: &Self) -> Vec<Difference> {
        let Some(case) = self.case else {
            return Vec::new();
        };
        let asks = case.asks();
        let pairs = asks.iter().zip(self.views.iter().zip(&other.views));
        let differences = pairs.filter_map(|(ask, (one, other))| {
            let fields = one.as_ref()?.differences(other.as_ref()?);
            let name = format!("{}: {}", self.group, self.name);
            (!fields.is_empty())
                .then(|| Difference::new(Some(name), &(case.settings)(), Some(*ask), fields))
        });
        differences.collect()
    }

    fn with_envoy(row: &Row, case: &row::Case, backend: BackendKind) -> Self {
        let expected = backend != BackendKind::None || !case.needs_interception();
        Self {
            group: ENVOY,
            name: row.name.clone(),
            source: ENVOY_SOURCE,
            passed: row.passed,
            as_it_should: row.passed == expected,
            wrong: row.wrong.clone(),
            views: Vec::new(),
            case: None,
        }
    }
}

/// Runs rows of the demonstration, with its Pods; also returns remains.
pub(crate) fn with_envoy(
    binaries: Binaries,
    backend: BackendKind,
    rows: &[&'static row::Case],
    interrupt: &Interrupt,
) -> Result<(Vec<Outcome>, Vec<String>)> {
    let mut lab = Lab::create(binaries, backend, interrupt)?;
    let fill = |lab: &mut Lab| -> Result<Vec<_>> {
        demo::add_pods(lab, interrupt)?;
        rows.iter()
            .map(|case| {
                Ok(Outcome::with_envoy(
                    &case.run(lab, interrupt)?,
                    case,
                    backend,
                ))
            })
            .collect()
    };
    let outcomes = fill(&mut lab);
    let left = lab.remove();
    Ok((outcomes?, left))
}

fn not_admitted(expect: Expect, said: &str) -> Vec<String> {
    let Expect::NotAdmitted(names) = expect else {
        return vec![format!("the Pod was not admitted: {said}")];
    };
    let missing = names.iter().filter(|name| !said.contains(**name));
    missing
        .map(|name| format!("the reason does not name {name:?}: {said}"))
        .collect()
}
