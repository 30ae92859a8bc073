//! Tests of virtual interfaces: the world is a host behind the Pod's `eth0`.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use sluice_abi::{InterfaceKey, PodFlags, Reason};

use super::{
    alias_routes,
    lab::{APP, Lab, NEVER, POD, SOON, WORLD, ip},
    sockets::{accept, call, connect, connect_pair, expect_greeting, listen, take},
};
use crate::{
    bpf::Rule,
    netns::{Families, Netns, Rerouting, VirtualLink},
};

/// Hosts beyond the Pod, in networks that the world reaches through it.
const BEYOND: [&str; 2] = ["198.18.0.1:80", "[2001:db8::1]:80"];

const FAMILIES: Families = Families { v4: true, v6: true };

/// A Pod with a virtual interface. `with`: flags of the Pod.
fn lab(with: PodFlags) -> Lab {
    let mut lab = Lab::bare();
    let announced = PodFlags::ALIAS_ROUTE_V4.with(PodFlags::ALIAS_ROUTE_V6);
    lab.enroll_with(PodFlags::REROUTES.with(announced).with(with));
    let refused = netns(&lab).install_local_routes(&[], &alias_routes());
    assert_eq!(refused.unwrap(), []);
    lab.pod.run(|| {
        // The kernel resolves these files in the netns of the thread.
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
    });
    lab.world.run(|| {
        ip(&format!("route add 198.18.0.0/15 via {}", POD[0]));
        ip(&format!("route add 2001:db8::/32 via {}", POD[1]));
    });
    lab
}

fn netns(lab: &Lab) -> Netns {
    Netns::open(lab.pod.path()).unwrap()
}

fn link(lab: &Lab) -> VirtualLink {
    let all = netns(lab).virtual_links().unwrap();
    all.into_iter().find(|link| link.name == "eth0").unwrap()
}

fn rerouting(links: Vec<VirtualLink>) -> Rerouting {
    Rerouting {
        names: vec!["eth0".to_owned()],
        families: FAMILIES,
        links,
    }
}

/// Attaches the programs, as the daemon does.
fn attach(lab: &mut Lab) {
    let link = link(lab);
    let key = InterfaceKey::new(lab.cookie, link.index);
    lab.list([Rule::VirtualInterface(key)].into_iter());
    let programs = lab.datapath.load_reroute(lab.cookie, link.header).unwrap();
    let rerouting = rerouting(vec![link]);
    let netns = netns(lab);
    netns
        .install_rerouting(&rerouting, vec![programs], &[])
        .unwrap();
    assert!(netns.has_rerouting(&rerouting).unwrap());
}

#[test]
fn proxy_gets_connections_from_behind_an_interface() {
    let mut lab = lab(PodFlags::default());
    attach(&mut lab);
    let proxy = listen(&lab.pod, "[::]:15001");
    let own = [format!("{}:8080", POD[0]), format!("[{}]:8080", POD[1])];
    for to in BEYOND.map(str::to_owned).into_iter().chain(own) {
        let at: SocketAddr = to.parse().unwrap();
        let stream = connect(&lab.world, APP, &to);
        let seen = accept(&lab.pod, &proxy, SOON).unwrap_or_else(|| panic!("{to}"));
        assert_eq!(seen.original, Some(at));
        assert_eq!(seen.peer.to_string(), WORLD[usize::from(at.is_ipv6())]);
        expect_greeting(stream);
    }
    assert_eq!(lab.count(Reason::ForwardedToProxy), 4);
}

#[test]
fn rerouted_connections_outlive_the_daemon() {
    let mut lab = lab(PodFlags::default());
    attach(&mut lab);
    let proxy = listen(&lab.pod, "[::]:15001");
    let from = (&lab.world, APP, BEYOND[0]);
    let (mut client, mut server) = connect_pair(from, (&lab.pod, &proxy));
    let lab = lab.restart();
    // Beyond one segment.
    let sent = vec![7; 200_000];
    let got = std::thread::scope(|threads| {
        threads.spawn(|| client.write_all(&sent).unwrap());
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).unwrap();
        got
    });
    assert!(got == sent);
    server.write_all(b"!").unwrap();
    expect_greeting(client);
    let _next = connect(&lab.world, APP, BEYOND[1]);
    let _accepted = take(&lab.pod, &proxy);
}

#[test]
fn other_networks_and_answers_are_not_rerouted() {
    let mut lab = lab(PodFlags::CIDR_ALLOWLIST);
    attach(&mut lab);
    let proxy = listen(&lab.pod, "[::]:15001");
    let app = listen(&lab.pod, "[::]:8080");
    let to = format!("{}:8080", POD[0]);
    let stream = connect(&lab.world, APP, &to);
    assert!(accept(&lab.pod, &app, SOON).is_some());
    expect_greeting(stream);
    // The Pod connects to the host behind the interface.
    let behind = listen(&lab.world, "[::]:8081");
    let stream = connect(&lab.pod, super::PROXY, &format!("{}:8081", WORLD[0]));
    assert!(accept(&lab.world, &behind, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(accept(&lab.pod, &proxy, NEVER), None);
    assert_eq!(lab.count(Reason::ForwardedDirect), 1);
}

#[test]
fn interface_without_its_programs_forwards_no_connection() {
    let mut lab = lab(PodFlags::default());
    let netns = netns(&lab);
    let none = rerouting(Vec::new());
    netns.install_rerouting(&none, Vec::new(), &[]).unwrap();
    for to in BEYOND {
        assert!(call(&lab.world, APP, to).is_err(), "{to}");
    }
    attach(&mut lab);
    let _proxy = listen(&lab.pod, "[::]:15001");
    for to in BEYOND {
        assert!(call(&lab.world, APP, to).is_ok(), "{to}");
    }
    netns.remove_rerouting().unwrap();
    assert!(!netns.has_rerouting(&none).unwrap());
    let left = lab.pod.run(|| {
        let show = |words: &str| {
            let shown = std::process::Command::new("ip")
                .args(words.split(' '))
                .output();
            String::from_utf8(shown.unwrap().stdout).unwrap()
        };
        [show("rule"), show("-6 rule"), show("link show dev eth0")].concat()
    });
    assert!(
        !left.contains("prohibit") && !left.contains("clsact"),
        "{left}"
    );
}
