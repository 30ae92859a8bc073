//! `sluiced pods`.

use std::fmt::Write as _;

use sluice_api::{PodView, RefusedAdd, path};

use super::{Client, print, print_json, refused, table::table};
use crate::config::PodsArgs;

/// `sluiced pods`.
pub(crate) fn pods(args: &PodsArgs) -> anyhow::Result<()> {
    let path = if args.refused {
        path::REFUSED
    } else {
        path::PODS
    };
    let answer = Client::new(&args.client).get(path)?;
    if args.client.json {
        return print_json(&answer);
    }
    if args.refused {
        let refused: Vec<RefusedAdd> = serde_json::from_slice(&answer)?;
        return print(refused::page(&refused).as_bytes());
    }
    let pods: Vec<PodView> = serde_json::from_slice(&answer)?;
    print(pods_table(&pods).as_bytes())
}

fn pods_table(pods: &[PodView]) -> String {
    let head = [
        "POD",
        "CONTAINER",
        "NETWORK",
        "INTERFACE",
        "ADDRESSES",
        "MESHED",
        "FAMILIES",
        "PROXY",
        "ALIASES",
        "AGE",
        "OUT PROXY/DIRECT",
        "IN PROXY/DIRECT",
        "REFUSED",
        "REASON",
    ];
    table(head, pods.iter().map(row))
}

fn row(view: &PodView) -> [String; 14] {
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    let name = match (&*view.pod.namespace, &*view.pod.name) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let meshed = if view.meshed { "yes" } else { "no" };
    let proxy = match (view.meshed, view.listeners) {
        (false, _) => "",
        (true, 0) => "not listening",
        (true, _) => "listening",
    };
    let mut proxy = proxy.to_owned();
    if let Some(before) = &view.before_proxy {
        let _ = write!(proxy, ", {} direct before", before.connections);
    }
    if view.foreign_uses > 0 {
        let _ = write!(proxy, ", {} ports refused to others", view.foreign_uses);
    }
    let aliases = match (view.meshed, view.alias_fallbacks) {
        (false, _) => String::new(),
        (true, 0) => view.aliases.to_string(),
        (true, beyond) => format!("{} (+{beyond} connections)", view.aliases),
    };
    let counters = view.counters;
    let counts = |proxy: u64, direct: u64| {
        if view.meshed {
            format!("{proxy}/{direct}")
        } else {
            String::new()
        }
    };
    let container = view.attachment.container_id.chars().take(13).collect();
    [
        name,
        container,
        view.attachment.network.clone(),
        view.attachment.ifname.clone(),
        addresses.join(","),
        meshed.to_owned(),
        view.families.clone().unwrap_or_default(),
        proxy,
        aliases,
        age(view.age_seconds),
        counts(counters.outbound_to_proxy, counters.outbound_direct),
        counts(counters.inbound_to_proxy, counters.inbound_direct),
        if view.meshed {
            counters.refused.to_string()
        } else {
            String::new()
        },
        view.reason.clone(),
    ]
}

/// An age in its two largest units, as `kubectl` prints it.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use sluice_api::{Attachment, PodCounters, PodName};

    use super::*;

    #[test]
    fn the_table_is_aligned_and_shows_no_control_characters() {
        let view = PodView {
            attachment: Attachment {
                network: "net".into(),
                container_id: "0123456789abcdef".into(),
                ifname: "eth0".into(),
            },
            pod: PodName {
                namespace: "shop".into(),
                name: "cart\u{1b}[2J".into(),
                uid: String::new(),
            },
            netns: "/run/netns/a".into(),
            cookie: Some(7),
            listeners: 0,
            aliases: 4096,
            alias_fallbacks: 17,
            age_seconds: 3700,
            counters: PodCounters {
                outbound_to_proxy: 5,
                outbound_direct: 6,
                inbound_to_proxy: 7,
                inbound_direct: 8,
                refused: 9,
            },
            addresses: vec!["10.0.0.1".parse().unwrap()],
            meshed: true,
            reason: String::new(),
            families: Some("ipv4".to_owned()),
            before_proxy: Some(sluice_api::BeforeProxyView {
                open: true,
                connections: 2,
            }),
            foreign_uses: 3,
        };
        let expected = "\
POD                 CONTAINER      NETWORK  INTERFACE  ADDRESSES  MESHED  FAMILIES  PROXY                                                      ALIASES                 AGE   OUT PROXY/DIRECT  IN PROXY/DIRECT  REFUSED  REASON
shop/cart\\u{1b}[2J  0123456789abc  net      eth0       10.0.0.1   yes     ipv4      not listening, 2 direct before, 3 ports refused to others  4096 (+17 connections)  1h1m  5/6               7/8              9        -";
        assert_eq!(pods_table(&[view]), expected);
    }
}
