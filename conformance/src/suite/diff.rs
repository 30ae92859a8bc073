//! The same connections on two subjects, and what differs.

use std::{collections::BTreeMap, fmt, thread};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::{
    interrupt::Interrupt,
    lab::Binaries,
    mesh::Mesh,
    settings::Settings,
    subject::Choice,
    suite::{
        ask::Ask,
        generate::Scene,
        known::Exception,
        stage::Stage,
        view::{Field, PACE, View},
    },
};

/// Two labs, side by side.
pub(crate) struct Pair {
    pub(crate) one: Stage,
    pub(crate) other: Stage,
}

/// What a lab showed of a scene.
enum Shown {
    /// Each connection; nothing where the Pod lacks the addresses.
    Views(Vec<Option<View>>),
    /// The Pod was not admitted, because of this.
    Refused(String),
}

/// A connection that is not the same on both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    /// The listed case, if it is one.
    pub(crate) case: Option<String>,
    pub(crate) settings: Settings,
    /// Nothing if the Pods themselves differ.
    pub(crate) ask: Option<Ask>,
    /// What differs, with both values.
    pub(crate) fields: Vec<Field>,
    /// What explains it, if it is meant.
    pub(crate) meant: Option<Exception>,
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
    fn is_of_pace(&self) -> bool {
        self.fields.iter().all(|(field, ..)| *field == PACE)
    }

    /// Looks up whether it is meant.
    pub(crate) fn new(
        case: Option<String>,
        settings: &Settings,
        ask: Option<Ask>,
        fields: Vec<Field>,
    ) -> Self {
        let settings = settings.clone();
        let meant = ask.and_then(|ask| Exception::of(&settings, ask));
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
        [one, other]: [Choice; 2],
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let build = |subject| Stage::build(binaries.resolve()?, subject, Mesh::Istio, interrupt);
        Ok(Self {
            one: build(one)?,
            other: build(other)?,
        })
    }

    /// Shows a scene on both and compares. What differs in its pace alone is tried once more: the
    /// machine may have been busy.
    pub(crate) fn compare(&mut self, scene: &Scene, interrupt: &Interrupt) -> Result<Comparison> {
        let mut found = self.compare_once(scene, interrupt)?;
        let late = found.differences.extract_if(.., |one| one.is_of_pace());
        let asks: Vec<_> = late.filter_map(|one| one.ask).collect();
        if !asks.is_empty() {
            let settings = scene.settings.clone();
            let again = self.compare_once(&Scene { settings, asks }, interrupt)?;
            found.differences.extend(again.differences);
        }
        Ok(found)
    }

    fn compare_once(&mut self, scene: &Scene, interrupt: &Interrupt) -> Result<Comparison> {
        let Self { one, other } = self;
        let shown = thread::scope(|scope| {
            let one = scope.spawn(|| show(one, scene, interrupt));
            let other = show(other, scene, interrupt);
            let one = one
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread of the suite panicked")));
            Ok::<_, anyhow::Error>((one?, other?))
        })?;
        let difference = |ask, fields| Difference::new(None, &scene.settings, ask, fields);
        let (connections, differences) = match shown {
            (Shown::Views(one), Shown::Views(other)) => {
                let pairs = scene.asks.iter().zip(one.iter().zip(&other));
                let differences = pairs.filter_map(|(ask, (one, other))| {
                    let fields = one.as_ref()?.differences(other.as_ref()?);
                    (!fields.is_empty()).then(|| difference(Some(*ask), fields))
                });
                (one.iter().flatten().count(), differences.collect())
            }
            (Shown::Refused(_), Shown::Refused(_)) => (0, Vec::new()),
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
            let scene = Scene {
                settings,
                asks: from.ask.into_iter().collect(),
            };
            let found = self.compare(&scene, interrupt)?.differences;
            if let Some(difference) = found.into_iter().find(|one| one.fields == from.fields) {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    /// Removes both labs; returns what was left.
    pub(crate) fn remove(self) -> Vec<String> {
        let mut left = self.one.remove();
        left.extend(self.other.remove());
        left
    }
}

impl Shown {
    fn admission(&self) -> String {
        match self {
            Self::Views(_) => "admitted".to_owned(),
            Self::Refused(why) => format!("refused: {}", why.lines().last().unwrap_or_default()),
        }
    }
}

fn show(stage: &mut Stage, scene: &Scene, interrupt: &Interrupt) -> Result<Shown> {
    interrupt.check()?;
    let guest = match stage.admit(scene.settings.clone(), interrupt) {
        Ok(guest) => guest,
        Err(error) => {
            interrupt.check()?;
            return Ok(Shown::Refused(format!("{error:#}")));
        }
    };
    let views = stage
        .observe(&guest, &scene.asks)
        .context("trying the connections");
    guest.remove(&stage.lab)?;
    Ok(Shown::Views(views?))
}

/// The same settings with one thing less, each in turn.
fn simpler(settings: &Settings) -> Vec<Settings> {
    let plain = Settings::of(settings.mesh);
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
    let resets: [fn(&mut Settings, &Settings); 5] = [
        |one, plain| one.users = plain.users,
        |one, plain| one.dns = plain.dns,
        |one, plain| (one.uid, one.gid) = (plain.uid, plain.gid),
        |one, plain| one.proxy = plain.proxy,
        |one, plain| one.shape = plain.shape,
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
    use crate::settings::{EXCLUDE_INBOUND_PORTS, INCLUDE_INBOUND_PORTS};

    #[test]
    fn settings_shrink_by_one_thing_at_a_time() {
        let settings = Settings {
            dns: true,
            ..Settings::default()
        }
        .with(EXCLUDE_INBOUND_PORTS, "1,2")
        .with(INCLUDE_INBOUND_PORTS, "3");
        let smaller = simpler(&settings);
        assert_eq!(smaller.len(), 5);
        assert!(smaller.iter().all(Settings::meshed));
        assert!(simpler(&Settings::default()).is_empty());
    }
}
