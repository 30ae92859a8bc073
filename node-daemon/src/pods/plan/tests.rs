//! Tests of the steps: they lead to the desired state, and are reversible.

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::{
    netns::VirtualLink,
    pods::{
        mesh::Mesh,
        policy::{Inbound, NetnsFacts, PodPolicy, RouteFacts},
    },
};

/// The kernel state after a step.
fn apply_step(state: &mut KernelState, step: &Step) {
    match step {
        Step::AddRule(entry) => {
            let key = |one: &Rule| match one {
                Rule::Prefsrc(prefix, _) => Some(*prefix),
                _ => None,
            };
            let taken = |one: &Rule| key(one).is_some() && key(one) == key(entry);
            assert!(!state.rule_set.iter().any(taken), "its place is taken");
            assert!(state.rule_set.insert(*entry));
        }
        Step::RemoveRule(entry) => assert!(state.rule_set.remove(entry)),
        Step::Address { addr, from, to } => {
            assert_eq!(state.addresses.get(addr), from.as_ref());
            match to {
                Some(pod) => state.addresses.insert(*addr, *pod),
                None => state.addresses.remove(addr),
            };
        }
        Step::NetnsEntry { from, to } => {
            assert_eq!(state.netns_entry, *from);
            state.netns_entry = *to;
        }
        Step::SetAliasRoutes { from, to } => {
            assert_eq!(&state.routes, from);
            state.routes.clone_from(to);
        }
        Step::SetSourceRouting { from, to } => {
            assert_eq!(&state.source_routing, from);
            state.source_routing = *to;
        }
        Step::SetRerouting { from, to } => {
            assert_eq!(&state.rerouting, from);
            state.rerouting.clone_from(to);
        }
        Step::AttachSkLookup => state.sk_lookup = true,
        Step::DetachSkLookup => state.sk_lookup = false,
        Step::AddPassthroughAddr => state.passthrough = true,
        Step::RemovePassthroughAddr => state.passthrough = false,
        Step::ReservePorts { from, to } => {
            assert_eq!(state.reserved, *from);
            state.reserved = *to;
        }
        Step::OpenBeforeProxy => assert!(!state.sk_lookup),
        Step::AdoptListeners => {
            assert!(state.netns_entry.is_some() && !state.sk_lookup);
        }
    }
}

fn policy(inbound: &[u16]) -> PodPolicy {
    PodPolicy {
        inbound: Inbound::Exclude(inbound.iter().map(|port| (*port, *port)).collect()),
        excluded_outbound: [(15020, 15020)].into(),
        ..PodPolicy::of(Mesh::preset("istio"))
    }
}

fn of(addresses: &[&str]) -> KernelState {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let policy = policy(&[15021]).provisional();
    desired(7, &policy, &addresses, Changes::PASSTHROUGH)
}

fn any_held() -> impl Strategy<Value = KernelState> {
    let ports = prop::collection::vec(1_u16..6, 0..4);
    let addresses = prop::collection::vec((0_u8..6, any::<bool>()), 0..4);
    let own = addresses.clone();
    let routes = prop::collection::vec((0_u8..3, 0_u8..6), 0..3);
    // The meshes have different source marks. Without one the mark is zero.
    let meshes = [None, Some("istio"), Some("ambient")].map(|name| name.map(Mesh::preset));
    let meshes = prop::sample::select(meshes.to_vec());
    let links = prop::collection::btree_set(2_u32..5, 0..3);
    prop::option::of((ports, addresses, own, routes, meshes, links)).prop_map(|pod| {
        let Some((ports, addresses, own, routes, mesh, links)) = pod else {
            return KernelState::default();
        };
        let route = |(to, from): (u8, u8)| SourceRoute {
            dst: IpNet::new([10, to, 0, 0].into(), 8 * to).unwrap(),
            prefsrc: [10, 0, 0, from].into(),
        };
        let address = |(n, v4): &(u8, bool)| -> IpAddr {
            if *v4 {
                [10, 0, 0, *n].into()
            } else {
                [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*n)].into()
            }
        };
        let link = |index: u32| VirtualLink {
            index,
            name: format!("tap{index}"),
            header: 14,
        };
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        // A network has one route.
        let routes: BTreeMap<_, _> = routes.into_iter().collect();
        let virtual_interfaces = links.iter().map(|index| format!("tap{index}")).collect();
        let facts = NetnsFacts {
            uid: Some(1337),
            keeps_source: mesh.is_some(),
            links: links.into_iter().map(link).collect(),
            routes: RouteFacts {
                sources: routes.into_iter().map(route).collect(),
                own_addresses: own.iter().map(address).collect(),
                ..RouteFacts::default()
            },
            ..NetnsFacts::default()
        };
        let policy = PodPolicy {
            mesh: mesh.unwrap_or_else(|| Mesh::preset("istio")),
            tproxy: true,
            virtual_interfaces,
            ..policy(&ports)
        };
        let policy = policy.resolve(facts).unwrap();
        desired(7, &policy, &addresses, Changes::PASSTHROUGH)
    })
}

proptest! {
    #[test]
    fn steps_converge_and_undo_reverts_them(
        before in any_held(),
        after in any_held(),
        stop in any::<prop::sample::Index>(),
    ) {
        let steps = steps(&before, &after);
        let mut state = before.clone();
        for step in &steps {
            apply_step(&mut state, step);
        }
        prop_assert_eq!(&state, &after);

        let mut state = before.clone();
        let done = &steps[..stop.index(steps.len() + 1)];
        for step in done {
            apply_step(&mut state, step);
        }
        let undos = done.iter().rev().filter_map(|step| step.clone().undo());
        for step in undos {
            apply_step(&mut state, &step);
        }
        prop_assert_eq!(state, before);
    }
}

#[test]
fn only_deleted_pods_lose_their_kernel_state() {
    let desired = BTreeMap::from([(1, of(&["10.0.0.1"])), (2, of(&["10.0.0.2"]))]);
    let actions = reconcile(desired.clone(), [2, 3, 4].into_iter(), |cookie| cookie == 3);
    let expected = [
        (1, Action::Converge(desired[&1].clone().into())),
        (2, Action::Converge(desired[&2].clone().into())),
        (3, Action::Keep),
        (4, Action::Remove),
    ];
    assert_eq!(actions, expected.into());
}

#[test]
fn unchanged_state_needs_no_step() {
    let state = of(&["10.0.0.1", "fd00::1"]);
    assert_eq!(steps(&state, &state), []);
}

#[test]
fn hooks_attach_last_and_detach_first() {
    let state = of(&["10.0.0.1"]);
    let nothing = KernelState::default();
    let begin = steps(&nothing, &state);
    assert_eq!(
        begin[begin.len() - 2..],
        [Step::AdoptListeners, Step::AttachSkLookup]
    );
    assert_eq!(steps(&state, &nothing)[0], Step::DetachSkLookup);
}

#[test]
fn removal_undoes_the_steps_in_reverse_order() {
    let state = of(&["10.0.0.1", "fd00::1"]);
    let nothing = KernelState::default();
    let undos = steps(&nothing, &state)
        .into_iter()
        .rev()
        .filter_map(Step::undo);
    assert_eq!(steps(&state, &nothing), undos.collect::<Vec<_>>());
}

#[test]
fn the_first_address_of_each_family_is_the_main_one() {
    let state = of(&["10.0.0.1", "fd00::1"]);
    let netns_entry = state.netns_entry.unwrap();
    assert_eq!(IpAddr::from(netns_entry.v4).to_string(), "10.0.0.1");
    assert_eq!(IpAddr::from(netns_entry.v6).to_string(), "fd00::1");
    assert!(!netns_entry.pod.flags.has(PodFlags::HAS_EXTRA_ADDRS));
}

#[test]
fn routes_precede_their_flags() {
    let state = of(&["10.0.0.1", "fd00::1"]);
    let nothing = KernelState::default();
    let position = |steps: &[Step], is_it: fn(&Step) -> bool| steps.iter().position(is_it).unwrap();
    let route: fn(&Step) -> bool = |step| matches!(step, Step::SetAliasRoutes { .. });
    let publish: fn(&Step) -> bool = |step| matches!(step, Step::NetnsEntry { .. });
    let (begin, end) = (steps(&nothing, &state), steps(&state, &nothing));
    assert!(position(&begin, route) < position(&begin, publish));
    assert!(position(&end, route) > position(&end, publish));
}

#[test]
fn refused_routes_clear_their_flags() {
    let state = of(&["10.0.0.1", "fd00::1"]);
    let all = state.routes.clone();
    assert_eq!(state.clone().without(&[]), state);
    let less = state.without(&all[1..]);
    assert_eq!(less.routes, all[..1]);
    let flags = less.netns_entry.unwrap().pod.flags;
    assert!(flags.has(PodFlags::ALIAS_ROUTE_V4) && !flags.has(PodFlags::ALIAS_ROUTE_V6));
    assert!(less.addresses.values().all(|pod| pod.flags == flags));
}

#[test]
fn localhost_only_proxies_need_no_alias_routes() {
    let policy = PodPolicy::of(Mesh::preset("linkerd")).provisional();
    let state = desired(
        7,
        &policy,
        &["10.0.0.1".parse().unwrap()],
        Changes::PASSTHROUGH,
    );
    assert_eq!(state.routes, []);
}

#[test]
fn further_addresses_raise_the_flag() {
    let state = of(&["10.0.0.1", "10.0.0.2"]);
    assert!(
        state
            .netns_entry
            .unwrap()
            .pod
            .flags
            .has(PodFlags::HAS_EXTRA_ADDRS)
    );
    assert_eq!(state.addresses.len(), 2);
    assert!(!state.passthrough);
}
