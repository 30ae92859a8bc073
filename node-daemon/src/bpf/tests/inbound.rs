//! Tests of inbound connections to unlisted addresses, and from untrusted sources.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use sluice_abi::{NetnsEntry, PodConfig, PodFlags, PortList, Reason};

use super::{
    lab::{APP, Lab, NEVER, Netns, POD, PROXY, SOON, WORLD, add_ipv6, await_that, ip, port},
    sockets::{accept, call, connect, connect_pair, expect_greeting, listen},
    syn::{self, Syn},
};

/// The link-local address of `eth0` in the Pod, in the notation of another namespace or of the Pod.
pub(super) fn link_local(lab: &Lab, seen_from: &Netns) -> String {
    let text = |netns: &Netns, what: &'static str| {
        netns.run(move || {
            let output = Command::new("ip").args(what.split(' ')).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    };
    for netns in [&lab.pod, &lab.world] {
        await_that(|| text(netns, "-6 addr show dev eth0 tentative").is_empty());
    }
    let shown = text(&lab.pod, "-6 -o addr show dev eth0 scope link");
    let address = shown
        .split_whitespace()
        .find(|word| word.starts_with("fe80"));
    let address = address.unwrap().split('/').next().unwrap().to_owned();
    let links = text(seen_from, "-o link show dev eth0");
    let index = links.split(':').next().unwrap();
    format!("[{address}%{index}]")
}

/// Configures addresses of the Pod that are in no map.
fn unlisted(lab: &Lab) -> [String; 3] {
    lab.pod.run(|| {
        ip("addr add 10.77.0.99/24 dev eth0");
        add_ipv6("fd77::99/64", "eth0");
    });
    [
        "10.77.0.99".to_owned(),
        "[fd77::99]".to_owned(),
        link_local(lab, &lab.world),
    ]
}

#[test]
fn unlisted_addresses_lead_to_the_proxy() {
    let lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    for address in unlisted(&lab) {
        let stream = connect(&lab.world, APP, &format!("{address}:8080"));
        let seen = accept(&lab.pod, &proxy, SOON).unwrap_or_else(|| panic!("{address}"));
        assert!(seen.original.is_some(), "{address}");
        expect_greeting(stream);
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::InboundToProxy), 3);
}

#[test]
fn unlisted_addresses_are_refused_without_a_proxy() {
    let lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    for address in unlisted(&lab) {
        let refused = call(&lab.world, APP, &format!("{address}:8080"));
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{address}");
    }
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
    assert_eq!(lab.count(Reason::InboundNoProxy), 3);
}

#[test]
fn excluded_ports_answer_at_unlisted_addresses() {
    let mut lab = Lab::meshed();
    lab.list(port(PortList::InboundExcluded, 15021, 15021));
    let app = listen(&lab.pod, "[::]:15021");
    for address in unlisted(&lab) {
        let stream = connect(&lab.world, APP, &format!("{address}:15021"));
        assert!(accept(&lab.pod, &app, SOON).is_some(), "{address}");
        expect_greeting(stream);
    }
}

#[test]
fn ipv4_only_pod_is_closed_over_ipv6() {
    let mut lab = Lab::meshed();
    let process = lab.datapath.netns_entry(lab.cookie).unwrap().unwrap();
    lab.datapath.remove_address(process.v6).unwrap();
    let v4_only = NetnsEntry {
        v6: sluice_abi::Addr::UNSPECIFIED,
        ..process
    };
    lab.datapath.set_netns_entry(lab.cookie, &v4_only).unwrap();
    let app = listen(&lab.pod, "[::]:8080");
    let v4 = listen(&lab.pod, "0.0.0.0:15006");
    for address in [format!("[{}]", POD[1]), link_local(&lab, &lab.world)] {
        let refused = call(&lab.world, APP, &format!("{address}:8080"));
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused), "{address}");
    }
    let stream = connect(&lab.world, APP, &format!("{}:8080", POD[0]));
    assert!(accept(&lab.pod, &v4, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
}

#[test]
fn address_of_another_pod_leads_to_the_namespaces_own_proxy() {
    let mut lab = Lab::meshed();
    lab.enroll_world(PodFlags::default());
    let others = listen(&lab.world, "[::]:15006");
    let own = listen(&lab.pod, "[::]:15006");
    // The maps assign the address to the world's Pod, but this namespace has configured it.
    let other = PodConfig {
        cookie: lab.world.cookie(),
        ..lab.datapath.netns_entry(lab.cookie).unwrap().unwrap().pod
    };
    let address: IpAddr = "10.77.0.50".parse().unwrap();
    lab.datapath.set_address(address.into(), &other).unwrap();
    lab.pod.run(|| ip("addr add 10.77.0.50/24 dev eth0"));
    let stream = connect(&lab.world, PROXY, "10.77.0.50:8080");
    assert!(accept(&lab.pod, &own, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(accept(&lab.world, &others, NEVER), None);
}

#[test]
fn namespace_with_a_hook_and_no_pod_is_closed() {
    let mut lab = Lab::meshed();
    let app = listen(&lab.pod, "[::]:8080");
    lab.datapath.remove_netns_entry(lab.cookie).unwrap();
    let refused = call(&lab.world, APP, &format!("{}:8080", POD[0]));
    assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    // Traffic on `lo` is not inbound traffic.
    let stream = connect(&lab.pod, APP, "127.0.0.1:8080");
    assert!(accept(&lab.pod, &app, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(lab.count(Reason::InboundNoPod), 1);
}

#[test]
fn next_daemon_decides_for_pods_of_the_one_before() {
    let lab = Lab::meshed().restart();
    let app = listen(&lab.pod, "[::]:8080");
    let proxy = listen(&lab.pod, "[::]:15006");
    let stream = connect(&lab.world, APP, &format!("{}:8080", POD[0]));
    assert!(accept(&lab.pod, &proxy, SOON).is_some());
    expect_greeting(stream);
    assert_eq!(accept(&lab.pod, &app, NEVER), None);
}

#[test]
fn forged_sources_pass_for_no_local_peer() {
    let lab = Lab::meshed();
    let _app = listen(&lab.pod, "[::]:8080");
    let _proxy = listen(&lab.pod, "[::]:15006");
    // The link starts to carry packets a moment after its setup.
    for address in [POD[0].to_owned(), format!("[{}]", POD[1])] {
        let _stream = connect(&lab.world, APP, &format!("{address}:8080"));
    }
    let v4 = [
        "0.0.0.0",
        "0.0.0.1",
        "10.77.0.200",
        "169.254.1.1",
        "240.0.0.1",
    ];
    let v6 = [
        "::",
        "::2",
        "fd77::200",
        "fe80::200",
        "fec0::1",
        "2001:db8::1",
    ];
    for (to, sources) in [(POD[0], &v4[..]), (POD[1], &v6)] {
        for from in sources {
            syn::send(&lab, &Syn::new(from, to, 8080));
        }
    }
    // The last connection has an ordinary source: every earlier packet has been processed.
    let _stream = connect(&lab.world, APP, &format!("[{}]:8080", POD[1]));
    assert_eq!(lab.count(Reason::InboundLocal), 0);
    assert!(lab.count(Reason::InboundToProxy) > v6.len() as u64);
}

/// Only the first namespace gets a program that was loaded in advance.
#[test]
fn prepared_hook_identifies_its_namespace_as_another_one_does() {
    let mut lab = Lab::bare();
    lab.datapath.prepare_sk_lookup().unwrap();
    lab.datapath.prepare_sk_lookup().unwrap();
    lab.enroll();
    lab.enroll_world(PodFlags::default());
    for ([from, to], addresses) in [
        ([&lab.world, &lab.pod], POD),
        ([&lab.pod, &lab.world], WORLD),
    ] {
        let proxy = listen(to, "[::]:15006");
        for address in addresses {
            let target = SocketAddr::new(address.parse().unwrap(), 8080).to_string();
            connect_pair((from, PROXY, &target), (to, &proxy));
        }
    }
}
