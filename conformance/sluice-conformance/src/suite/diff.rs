//! The same connections on two subjects, and the differences.

use std::{collections::BTreeMap, fmt, thread};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use sluice_lab::{Binaries, mesh::Mesh, pod_annotations::PodAnnotations};
use sluice_testbed::interrupt::Interrupt;

use crate::suite::{
    conn_spec::ConnSpec,
    expected_diff::PerPod,
    fixture::Fixture,
    generate::RandomCase,
    observation::{Field, Observation, PACE},
    subject::Subject,
};

/// Two labs, side by side.
pub(crate) struct Pair {
    pub(crate) one: Fixture,
    pub(crate) other: Fixture,
}

/// The observations of a scene in a lab.
enum ObservedPeer {
    /// Each connection; nothing where the Pod lacks the addresses.
    Observations(Vec<Option<Observation>>),
    /// The Pod was not admitted, because of this.
    Refused(String),
}

/// A connection that is not the same on both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    /// The listed case, if it is one.
    pub(crate) case: Option<String>,
    pub(crate) settings: PodAnnotations,
    /// Nothing if the Pods themselves differ.
    pub(crate) ask: Option<ConnSpec>,
    /// The differing fields, with both values.
    pub(crate) fields: Vec<Field>,
    /// The explanation of an intended difference.
    pub(crate) meant: Option<PerPod>,
}

/// How a comparison went.
#[derive(Default, Serialize)]
pub(crate) struct Comparison {
    pub(crate) connections: usize,
    pub(crate) pods: usize,
    pub(crate) differences: Vec<Difference>,
}

impl Comparison {
    /// Differences that nothing explains.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &Difference> {
        self.differences
            .iter()
            .filter(|difference| difference.meant.is_none())
    }

    /// Takes up another one.
    pub(crate) fn extend(&mut self, other: Self) {
        let Self {
            connections,
            pods,
            differences,
        } = other;
        self.connections += connections;
        self.pods += pods;
        self.differences.extend(differences);
    }
}

impl Difference {
    fn only_timing_differs(&self) -> bool {
        self.fields.iter().all(|(field, ..)| *field == PACE)
    }

    /// Looks up whether it is meant.
    pub(crate) fn new(
        case: Option<String>,
        settings: &PodAnnotations,
        ask: Option<ConnSpec>,
        fields: Vec<Field>,
    ) -> Self {
        let settings = settings.clone();
        let meant = ask.and_then(|ask| PerPod::of(&settings, ask));
        Self {
            case,
            settings,
            ask,
            fields,
            meant,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(case) = &self.case {
            write!(f, "{case}: ")?;
        }
        write!(f, "Pod with {}", self.settings.describe())?;
        if let Some(ask) = &self.ask {
            write!(f, "; {ask}")?;
        }
        for (field, one, other) in &self.fields {
            write!(f, "; {field}: {one} | {other}")?;
        }
        Ok(())
    }
}

/// One of each kind.
pub(crate) fn distinct<'a>(
    differences: impl Iterator<Item = &'a Difference>,
) -> Vec<&'a Difference> {
    let mut kinds = BTreeMap::new();
    for difference in differences {
        kinds.entry(&difference.fields).or_insert(difference);
    }
    kinds.into_values().collect()
}

impl Pair {
    /// Builds both.
    pub(crate) fn build(
        binaries: &Binaries,
        [one, other]: &[Subject; 2],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let build = |subject| Fixture::build(binaries.resolve()?, subject, Mesh::Istio, interrupt);
        Ok(Self {
            one: build(one)?,
            other: build(other)?,
        })
    }

    /// Shows a scene on both and compares. What differs in its pace alone is tried once more: the
    /// machine may have been busy.
    pub(crate) fn compare(
        &mut self,
        random_case: &RandomCase,
        interrupt: &Interrupt,
    ) -> Result<Comparison> {
        let mut found = self.compare_once(random_case, interrupt)?;
        let late = found
            .differences
            .extract_if(.., |one| one.only_timing_differs());
        let asks: Vec<_> = late.filter_map(|one| one.ask).collect();
        if !asks.is_empty() {
            let settings = random_case.settings.clone();
            let again = self.compare_once(&RandomCase { settings, asks }, interrupt)?;
            found.differences.extend(again.differences);
        }
        Ok(found)
    }

    fn compare_once(
        &mut self,
        random_case: &RandomCase,
        interrupt: &Interrupt,
    ) -> Result<Comparison> {
        let Self { one, other } = self;
        let shown = thread::scope(|scope| {
            let one = scope.spawn(|| show(one, random_case, interrupt));
            let other = show(other, random_case, interrupt);
            let one = one
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread of the suite panicked")));
            Ok::<_, anyhow::Error>((one?, other?))
        })?;
        let difference = |ask, fields| Difference::new(None, &random_case.settings, ask, fields);
        let (connections, differences) = match shown {
            (ObservedPeer::Observations(one), ObservedPeer::Observations(other)) => {
                let pairs = random_case.asks.iter().zip(one.iter().zip(&other));
                let differences = pairs.filter_map(|(ask, (one, other))| {
                    let fields = one.as_ref()?.differences(other.as_ref()?);
                    (!fields.is_empty()).then(|| difference(Some(*ask), fields))
                });
                (one.iter().flatten().count(), differences.collect())
            }
            (ObservedPeer::Refused(_), ObservedPeer::Refused(_)) => (0, Vec::new()),
            (one, other) => {
                let field = ("admission", one.admission(), other.admission());
                (0, vec![difference(None, vec![field])])
            }
        };
        Ok(Comparison {
            connections,
            pods: 1,
            differences,
        })
    }

    /// Makes a scene with one difference as small as it can be while both still differ so.
    pub(crate) fn shrink(
        &mut self,
        found: &Difference,
        interrupt: &Interrupt,
    ) -> Result<Difference> {
        let mut smallest = found.clone();
        while let Some(smaller) = self.smaller(&smallest, interrupt)? {
            smallest = smaller;
        }
        Ok(smallest)
    }

    fn smaller(&mut self, from: &Difference, interrupt: &Interrupt) -> Result<Option<Difference>> {
        for settings in simpler(&from.settings) {
            let random_case = RandomCase {
                settings,
                asks: from.ask.into_iter().collect(),
            };
            let found = self.compare(&random_case, interrupt)?.differences;
            if let Some(difference) = found.into_iter().find(|one| one.fields == from.fields) {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    /// Removes both labs; returns remains.
    pub(crate) fn remove(self) -> Vec<String> {
        let mut left = self.one.remove();
        left.extend(self.other.remove());
        left
    }
}

impl ObservedPeer {
    fn admission(&self) -> String {
        match self {
            Self::Observations(_) => "admitted".to_owned(),
            Self::Refused(why) => format!("refused: {}", why.lines().last().unwrap_or_default()),
        }
    }
}

fn show(
    fixture: &mut Fixture,
    random_case: &RandomCase,
    interrupt: &Interrupt,
) -> Result<ObservedPeer> {
    interrupt.check()?;
    let test_pod = match fixture.admit(random_case.settings.clone(), interrupt) {
        Ok(test_pod) => test_pod,
        Err(error) => {
            interrupt.check()?;
            return Ok(ObservedPeer::Refused(format!("{error:#}")));
        }
    };
    let views = fixture
        .observe(&test_pod, &random_case.asks)
        .context("trying the connections");
    test_pod.remove(&fixture.lab)?;
    Ok(ObservedPeer::Observations(views?))
}

/// The same settings with one thing less, each in turn.
fn simpler(settings: &PodAnnotations) -> Vec<PodAnnotations> {
    let plain = PodAnnotations::of(settings.mesh);
    let mut all = Vec::new();
    for (key, value) in &settings.annotations {
        if plain.annotations.contains_key(key) {
            continue;
        }
        let mut without = settings.clone();
        without.annotations.remove(key);
        all.push(without);
        let items: Vec<_> = value.split(',').collect();
        for index in 0..items.len() {
            let mut fewer = items.clone();
            if fewer.len() > 1 {
                fewer.remove(index);
                all.push(settings.clone().with(key, &fewer.join(",")));
            }
        }
    }
    let resets: [fn(&mut PodAnnotations, &PodAnnotations); 5] = [
        |one, plain| one.users = plain.users,
        |one, plain| one.dns = plain.dns,
        |one, plain| (one.uid, one.gid) = (plain.uid, plain.gid),
        |one, plain| one.proxy = plain.proxy,
        |one, plain| one.address_plan = plain.address_plan,
    ];
    for reset in resets {
        let mut less = settings.clone();
        reset(&mut less, &plain);
        if less != *settings {
            all.push(less);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_lab::pod_annotations::{EXCLUDE_INBOUND_PORTS, INCLUDE_INBOUND_PORTS};

    #[test]
    fn settings_shrink_by_one_thing_at_a_time() {
        let settings = PodAnnotations {
            dns: true,
            ..PodAnnotations::default()
        }
        .with(EXCLUDE_INBOUND_PORTS, "1,2")
        .with(INCLUDE_INBOUND_PORTS, "3");
        let smaller = simpler(&settings);
        assert_eq!(smaller.len(), 5);
        assert!(smaller.iter().all(PodAnnotations::meshed));
        assert!(simpler(&PodAnnotations::default()).is_empty());
    }
}
