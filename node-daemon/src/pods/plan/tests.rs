//! The steps lead where they should, and back.

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::pods::{mesh::Mesh, policy::Inbound};

/// What the kernel would hold after a step.
fn take(held: &mut Held, step: &Step) {
    match step {
        Step::List(entry) => {
            let key = |one: &Entry| match one {
                Entry::Source(prefix, _) => Some(*prefix),
                _ => None,
            };
            let taken = |one: &Entry| key(one).is_some() && key(one) == key(entry);
            assert!(!held.lists.iter().any(taken), "its place is taken");
            assert!(held.lists.insert(*entry));
        }
        Step::Unlist(entry) => assert!(held.lists.remove(entry)),
        Step::Address { addr, from, to } => {
            assert_eq!(held.addresses.get(addr), from.as_ref());
            match to {
                Some(pod) => held.addresses.insert(*addr, *pod),
                None => held.addresses.remove(addr),
            };
        }
        Step::Process { from, to } => {
            assert_eq!(held.process, *from);
            held.process = *to;
        }
        Step::Routes { from, to } => {
            assert_eq!(&held.routes, from);
            held.routes.clone_from(to);
        }
        Step::Steer => held.steered = true,
        Step::Release => held.steered = false,
        Step::AddPassthrough => held.passthrough = true,
        Step::RemovePassthrough => held.passthrough = false,
        Step::FetchListeners => assert!(held.steered),
    }
}

fn settings(inbound: &[u16]) -> Settings {
    Settings {
        inbound: Inbound::AllBut(inbound.iter().map(|port| (*port, *port)).collect()),
        excluded_outbound: [(15020, 15020)].into(),
        ..Settings::of(Mesh::preset("istio"))
    }
}

fn of(addresses: &[&str]) -> Held {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    wanted(7, &settings(&[15021]), &addresses, true)
}

fn any_held() -> impl Strategy<Value = Held> {
    let ports = prop::collection::vec(1_u16..6, 0..4);
    let addresses = prop::collection::vec((0_u8..6, any::<bool>()), 0..4);
    let routes = prop::collection::vec((0_u8..3, 0_u8..6), 0..3);
    prop::option::of((ports, addresses, routes)).prop_map(|pod| {
        let Some((ports, addresses, routes)) = pod else {
            return Held::default();
        };
        let route = |(to, from): (u8, u8)| Source {
            to: IpNet::new([10, to, 0, 0].into(), 8 * to).unwrap(),
            from: [10, 0, 0, from].into(),
        };
        let address = |(n, v4): &(u8, bool)| -> IpAddr {
            if *v4 {
                [10, 0, 0, *n].into()
            } else {
                [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*n)].into()
            }
        };
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        // A network has one route.
        let routes: BTreeMap<_, _> = routes.into_iter().collect();
        let settings = Settings {
            sources: routes.into_iter().map(route).collect(),
            ..settings(&ports)
        };
        wanted(7, &settings, &addresses, true)
    })
}

proptest! {
    #[test]
    fn the_steps_lead_there_and_their_undos_lead_back(
        before in any_held(),
        after in any_held(),
        stop in any::<prop::sample::Index>(),
    ) {
        let steps = steps(&before, &after);
        let mut held = before.clone();
        for step in &steps {
            take(&mut held, step);
        }
        prop_assert_eq!(&held, &after);

        let mut held = before.clone();
        let done = &steps[..stop.index(steps.len() + 1)];
        for step in done {
            take(&mut held, step);
        }
        let undos = done.iter().rev().filter_map(|step| step.clone().undo());
        for step in undos {
            take(&mut held, &step);
        }
        prop_assert_eq!(held, before);
    }
}

#[test]
fn only_a_pod_that_is_gone_loses_what_the_kernel_holds() {
    let wanted = BTreeMap::from([(1, of(&["10.0.0.1"])), (2, of(&["10.0.0.2"]))]);
    let fates = reconcile(wanted.clone(), [2, 3, 4].into_iter(), |cookie| cookie == 3);
    let expected = [
        (1, Fate::Bring(wanted[&1].clone().into())),
        (2, Fate::Bring(wanted[&2].clone().into())),
        (3, Fate::Keep),
        (4, Fate::Drop),
    ];
    assert_eq!(fates, expected.into());
}

#[test]
fn nothing_is_to_be_done_when_nothing_changes() {
    let held = of(&["10.0.0.1", "fd00::1"]);
    assert_eq!(steps(&held, &held), []);
}

#[test]
fn hooks_begin_last_and_end_first() {
    let held = of(&["10.0.0.1"]);
    let nothing = Held::default();
    let begin = steps(&nothing, &held);
    assert_eq!(
        begin[begin.len() - 2..],
        [Step::Steer, Step::FetchListeners]
    );
    assert_eq!(steps(&held, &nothing)[0], Step::Release);
}

#[test]
fn the_first_address_of_each_family_is_the_main_one() {
    let held = of(&["10.0.0.1", "fd00::1"]);
    let process = held.process.unwrap();
    assert_eq!(IpAddr::from(process.v4).to_string(), "10.0.0.1");
    assert_eq!(IpAddr::from(process.v6).to_string(), "fd00::1");
    assert!(!process.pod.flags.has(PodFlags::MORE_ADDRESSES));
}

#[test]
fn a_route_is_there_before_the_programs_are_told_and_until_they_are_told_otherwise() {
    let held = of(&["10.0.0.1", "fd00::1"]);
    let nothing = Held::default();
    let place = |steps: &[Step], is_it: fn(&Step) -> bool| steps.iter().position(is_it).unwrap();
    let route: fn(&Step) -> bool = |step| matches!(step, Step::Routes { .. });
    let tell: fn(&Step) -> bool = |step| matches!(step, Step::Process { .. });
    let (begin, end) = (steps(&nothing, &held), steps(&held, &nothing));
    assert!(place(&begin, route) < place(&begin, tell));
    assert!(place(&end, route) > place(&end, tell));
}

#[test]
fn of_a_route_that_is_refused_nobody_is_told() {
    let held = of(&["10.0.0.1", "fd00::1"]);
    let all = held.routes.clone();
    assert_eq!(held.clone().without(&[]), held);
    let less = held.without(&all[1..]);
    assert_eq!(less.routes, all[..1]);
    let flags = less.process.unwrap().pod.flags;
    assert!(flags.has(PodFlags::ROUTED_V4) && !flags.has(PodFlags::ROUTED_V6));
    assert!(less.addresses.values().all(|pod| pod.flags == flags));
}

#[test]
fn a_mesh_whose_proxy_is_met_at_one_address_needs_no_routes() {
    let settings = Settings::of(Mesh::preset("linkerd"));
    let held = wanted(7, &settings, &["10.0.0.1".parse().unwrap()], true);
    assert_eq!(held.routes, []);
}

#[test]
fn further_addresses_raise_the_flag() {
    let held = of(&["10.0.0.1", "10.0.0.2"]);
    assert!(
        held.process
            .unwrap()
            .pod
            .flags
            .has(PodFlags::MORE_ADDRESSES)
    );
    assert_eq!(held.addresses.len(), 2);
    assert!(!held.passthrough);
}
