//! One ztunnel's view of the Pods: which message comes next. Pure.

use std::collections::BTreeMap;

use crate::{
    netns,
    pods::{Uid, Workload, Workloads},
};

/// The next message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Serve a Pod.
    Add(Uid, Workload),
    /// Do not serve a Pod any more.
    Del(Uid),
    /// The snapshot is complete.
    SnapshotSent,
}

/// The Pods that one ztunnel was sent.
#[derive(Debug, Default)]
pub(super) struct Session {
    sent: BTreeMap<Uid, netns::Id>,
    has_snapshot: bool,
}

impl Session {
    /// The next message, so that ztunnel serves the desired Pods. During an upgrade two ztunnels
    /// are connected: Pods are added to the latest alone, and deleted from both.
    pub(super) fn next(&self, desired: &Workloads, is_latest: bool) -> Option<Next> {
        let is_stale = |(uid, id): &(&Uid, &netns::Id)| {
            desired.get(*uid).is_none_or(|wanted| wanted.netns != **id)
        };
        if let Some((uid, _)) = self.sent.iter().find(is_stale) {
            return Some(Next::Del(uid.clone()));
        }
        if is_latest || !self.has_snapshot {
            let missing = desired
                .iter()
                .find(|(uid, _)| !self.sent.contains_key(*uid));
            if let Some((uid, workload)) = missing {
                return Some(Next::Add(uid.clone(), workload.clone()));
            }
        }
        (!self.has_snapshot).then_some(Next::SnapshotSent)
    }

    /// Records that a message was sent. A Pod that ztunnel cannot serve yet counts as sent: ztunnel
    /// retries it.
    pub(super) fn sent(&mut self, message: &Next) {
        match message {
            Next::Add(uid, workload) => {
                self.sent.insert(uid.clone(), workload.netns);
            }
            Next::Del(uid) => {
                self.sent.remove(uid);
            }
            Next::SnapshotSent => self.has_snapshot = true,
        }
    }

    /// Whether the snapshot is complete.
    pub(super) fn has_snapshot(&self) -> bool {
        self.has_snapshot
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn workloads(all: &BTreeMap<u8, u64>) -> Workloads {
        let one = |(uid, cookie): (&u8, &u64)| (uid.to_string(), Workload::with_cookie(*cookie));
        all.iter().map(one).collect()
    }

    /// Sends messages until none is left.
    fn converge(session: &mut Session, desired: &Workloads, is_latest: bool) -> Vec<Next> {
        let mut all = Vec::new();
        while let Some(next) = session.next(desired, is_latest) {
            session.sent(&next);
            all.push(next);
            assert!(all.len() < 1000, "the session does not converge");
        }
        all
    }

    proptest! {
        #[test]
        fn latest_session_converges_to_the_desired_pods(
            states in prop::collection::vec(prop::collection::btree_map(0u8..9, 0u64..4, 0..9), 1..9),
        ) {
            let mut session = Session::default();
            for state in states {
                let desired = workloads(&state);
                converge(&mut session, &desired, true);
                let wanted: BTreeMap<_, _> =
                    desired.iter().map(|(uid, one)| (uid.clone(), one.netns)).collect();
                prop_assert_eq!(&session.sent, &wanted);
            }
        }

        #[test]
        fn earlier_session_gets_deletions_alone(
            first in prop::collection::btree_map(0u8..9, 0u64..4, 0..9),
            second in prop::collection::btree_map(0u8..9, 0u64..4, 0..9),
        ) {
            let mut session = Session::default();
            converge(&mut session, &workloads(&first), true);
            for next in converge(&mut session, &workloads(&second), false) {
                prop_assert!(matches!(next, Next::Del(_)), "{next:?}");
            }
        }
    }

    #[test]
    fn snapshot_ends_after_all_pods_once() {
        let mut session = Session::default();
        let desired = workloads(&[(1, 1), (2, 2)].into());
        let sent = converge(&mut session, &desired, true);
        assert_eq!(sent.len(), 3);
        assert_eq!(sent[2], Next::SnapshotSent);
        assert_eq!(converge(&mut session, &desired, true), []);
    }
}
