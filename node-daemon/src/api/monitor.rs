//! Events and runs of the programs, for monitors.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use sluice_abi::{Event, Reason};
use sluice_api::{EventView, ProgramRuns};

use crate::bpf::RunTime;

/// The runs of a program since the first measurement. A program that was replaced has another id.
pub(super) fn since(now: RunTime, before: &[RunTime]) -> ProgramRuns {
    let earlier = before.iter().find(|one| one.id == now.id);
    let (runs, time) = earlier.map_or((0, Duration::ZERO), |one| (one.runs, one.time));
    ProgramRuns {
        name: now.name,
        id: now.id,
        runs: now.runs.saturating_sub(runs),
        nanos: u64::try_from(now.time.saturating_sub(time).as_nanos()).unwrap_or(u64::MAX),
    }
}

/// An event for a monitor. `names`: the Pods by netns cookie; `silent`: those whose proxy does not listen.
pub(super) fn view(
    time: SystemTime,
    event: &Event,
    names: &BTreeMap<u64, String>,
    silent: &BTreeSet<u64>,
) -> EventView {
    let since_1970 = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let reason = Reason::ALL.iter().find(|one| **one as u32 == event.reason);
    let of_caller = |id: u32| (event.uid != Event::NO_UID).then_some(id);
    let unknown = || format!("cookie {}", event.cookie);
    EventView {
        time: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        pod: names.get(&event.cookie).cloned().unwrap_or_else(unknown),
        uid: of_caller(event.uid),
        gid: of_caller(event.gid),
        from: event.from.into(),
        to: event.to.into(),
        rule: reason.map_or("unknown", |reason| reason.label()).to_owned(),
        is_refused: silent.contains(&event.cookie)
            && reason.is_some_and(|reason| is_redirected(*reason)),
    }
}

/// Whether the decision redirects a TCP connection to the proxy.
fn is_redirected(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::OutboundToProxy | Reason::OutboundPortListed | Reason::OutboundHairpin
    )
}
