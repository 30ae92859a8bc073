//! The log of foreign programs at Sluice's hooks: a line for each change, rate-limited.

use std::{collections::BTreeMap, path::Path};

use tracing::{info, warn};

use crate::{bpf::ForeignProgram, limit::LogLimit};

/// A program at a hook: the name of Sluice's program there, and the ID of the other one.
type Key = (&'static str, u32);

/// The foreign programs that were logged last.
#[derive(Debug, Default)]
pub(crate) struct ForeignLog {
    logged: BTreeMap<Key, ForeignProgram>,
    limit: LogLimit,
}

/// A difference from the last round.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// It runs before Sluice, and did not do so in the last round.
    Precedes(ForeignProgram),
    /// It runs after Sluice, and did not do so in the last round.
    Follows(ForeignProgram),
    /// It is attached no more.
    Gone(ForeignProgram),
}

impl ForeignLog {
    /// Logs the changes since the last call.
    pub(crate) fn update(&mut self, found: Vec<ForeignProgram>) {
        let found = found.into_iter().map(|one| ((one.hook, one.id), one));
        let found = found.collect();
        for change in changes(&self.logged, &found) {
            if let Some(dropped) = self.limit.pass() {
                change.log(dropped);
            }
        }
        self.logged = found;
    }
}

/// The changes between two rounds. Programs that run before Sluice come first: the rate limit must not
/// hide them.
fn changes(
    before: &BTreeMap<Key, ForeignProgram>,
    now: &BTreeMap<Key, ForeignProgram>,
) -> Vec<Change> {
    let has_order = |key, first| before.get(key).is_some_and(|one| one.runs_first == first);
    let changed = |first| {
        let new = now
            .iter()
            .filter(move |(key, one)| one.runs_first == first && !has_order(key, first));
        new.map(|(_, one)| one.clone())
    };
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    let gone = gone.map(|(_, one)| Change::Gone(one.clone()));
    changed(true)
        .map(Change::Precedes)
        .chain(changed(false).map(Change::Follows))
        .chain(gone)
        .collect()
}

impl Change {
    fn log(&self, dropped: u64) {
        let (Self::Precedes(one) | Self::Follows(one) | Self::Gone(one)) = self;
        let ForeignProgram {
            hook,
            id,
            name,
            uid,
            ..
        } = one;
        let cgroup = Path::display(&one.cgroup);
        match self {
            Self::Precedes(_) => warn!(
                program = name, id, uid, hook, %cgroup, dropped,
                "foreign program runs before Sluice: the proxy may receive addresses that it wrote. \
                 See 'bpftool cgroup tree'; attach it to the root of the hierarchy"
            ),
            Self::Follows(_) => info!(
                program = name, id, uid, hook, %cgroup, dropped,
                "foreign program runs after Sluice"
            ),
            Self::Gone(_) => info!(
                program = name, id, uid, hook, %cgroup, dropped,
                "foreign program is detached"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(hook: &'static str, id: u32, runs_first: bool) -> (Key, ForeignProgram) {
        let program = ForeignProgram {
            hook,
            id,
            name: "balancer".into(),
            uid: 0,
            cgroup: "/sys/fs/cgroup".into(),
            runs_first,
        };
        ((hook, id), program)
    }

    #[test]
    fn each_change_is_reported_once() {
        let (key, follows) = program("connect4", 1, false);
        let (_, precedes) = program("connect4", 1, true);
        let none = BTreeMap::new();
        let first = BTreeMap::from([(key, follows.clone())]);
        let second = BTreeMap::from([(key, precedes.clone())]);
        assert_eq!(changes(&none, &first), [Change::Follows(follows)]);
        assert_eq!(changes(&first, &first), []);
        assert_eq!(
            changes(&first, &second),
            [Change::Precedes(precedes.clone())]
        );
        assert_eq!(changes(&second, &none), [Change::Gone(precedes)]);
    }

    #[test]
    fn programs_before_sluice_are_reported_first() {
        let now = [
            program("connect4", 1, false),
            program("sendmsg4", 2, true),
            program("connect4", 3, true),
        ];
        let found = changes(&BTreeMap::new(), &BTreeMap::from(now));
        let precedes = |one: &Change| matches!(one, Change::Precedes(_));
        let order: Vec<_> = found.iter().map(precedes).collect();
        assert_eq!(order, [true, true, false]);
    }
}
