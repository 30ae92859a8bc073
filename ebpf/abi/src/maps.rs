//! Names of maps and programs, as the object file, bpffs and `bpftool` show them.

/// Pod IP → [`PodConfig`](crate::PodConfig), for meshed Pods only. Written by the daemon.
pub const LOCAL_POD_IPS: &str = "local_pod_ips";
/// Network namespace cookie (`u64`) → [`NetnsEntry`](crate::NetnsEntry). Written by the daemon.
pub const PROCESS_IP: &str = "process_ip";
/// [`PortKey`](crate::PortKey) → `u8` (no meaning): listed ports. Written by the daemon.
pub const PORTS: &str = "ports";
/// Prefix of a [`PortKey`](crate::PortKey) → `u8` (no meaning): listed ranges of ports, as a trie.
/// Written by the daemon.
pub const PORT_RANGES: &str = "port_ranges";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (no meaning): the only networks whose
/// connections are the proxy's, as a trie. Written by the daemon.
pub const INCLUDE_CIDRS: &str = "include_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (no meaning): networks that are left alone,
/// as a trie. Written by the daemon.
pub const EXCLUDE_CIDRS: &str = "exclude_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (no meaning): networks of which no row is asked,
/// as a trie. Written by the daemon.
pub const BYPASS_CIDRS: &str = "bypass_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → [`Addr`](crate::Addr): from which of the Pod's
/// addresses its routes lead to a network, as a trie. Written by the daemon.
pub const PREFSRC_BY_DST: &str = "prefsrc_by_dst";
/// [`InterfaceKey`](crate::InterfaceKey) → `u8` (no meaning): interfaces of which no row is asked.
/// Written by the daemon.
pub const EXCLUDE_IFINDEX: &str = "exclude_ifindex";
/// Network namespace cookie (`u64`) → `u8` (no meaning): Pods whose proxy answers DNS queries.
/// Written by `sock_ops` and by the daemon.
pub const DNS_CAPTURE: &str = "dns_capture";
/// Place → provisional cookie (`u64`) of a Pod whose network namespace is not known; 0 ends the
/// list. Written by the daemon.
pub const PENDING_PODS: &str = "pending_pods";
/// Ring of network namespace cookies (`u64`) in which an awaited Pod was found. Written by
/// `connect`.
pub const NETNS_FOUND: &str = "netns_found";
/// [`ListenerKey`](crate::ListenerKey) → socket. Written by `sock_ops` and by the daemon.
pub const PROXY_LISTENERS: &str = "proxy_listeners";
/// 0 → network namespace cookie (`u64`) of the connection that is being looked up, for each CPU.
/// Written by the program that each Pod's network namespace has for itself.
pub const LOOKUP_NETNS: &str = "lookup_netns";
/// 0 → the `sk_lookup` program that decides. Written by the daemon.
pub const LOOKUP_PROG: &str = "lookup_prog";
/// Socket → `u8` (no meaning): the proxy bound it to one of its ports.
pub const PROXY_SOCKETS: &str = "proxy_sockets";
/// [`ForeignKey`](crate::ForeignKey) → user (`u32`, as the initial user namespace numbers it): who was
/// refused a port of the proxy. Written by `bind` and `listen`.
pub const FOREIGN_BINDS: &str = "foreign_binds";
/// [`AliasKey`](crate::AliasKey) → [`Endpoint`](crate::Endpoint): where the connections were going
/// that meet the proxy there. Written by `connect`; the daemon removes what is left of Pods.
pub const ALIAS_TO_DST: &str = "alias_to_dst";
/// Network namespace cookie (`u64`) → [`AliasUsage`](crate::AliasUsage): what a Pod uses of
/// `alias_to_dst`. Written by `connect`; the daemon removes the entries of Pods that are gone.
pub const ALIAS_USAGE: &str = "alias_usage";
/// [`ConnKey`](crate::ConnKey) → [`Endpoint`](crate::Endpoint): between connect and accept.
pub const PAIR_ORIGINAL_DST: &str = "pair_original_dst";
/// Socket → [`OrigDst`](crate::OrigDst): what the connection's client asked for.
pub const ORIGINAL_DST: &str = "original_dst";
/// [`SockKey`](crate::SockKey) → socket: ends of accelerated connections.
pub const SOCK_PAIR_MAP: &str = "sock_pair_map";
/// Socket → [`SockKey`](crate::SockKey): which end it is.
pub const ACCEL_SOCK: &str = "accel_sock";
/// [`ConnKey`](crate::ConnKey) → [`Flow`](crate::Flow): how far each direction is.
pub const ACCEL_FLOWS: &str = "accel_flows";
/// [`ConnRateKey`](crate::ConnRateKey) → [`RateWindow`](crate::RateWindow): how many connections of a kind were made in this
/// second.
pub const CONN_RATE: &str = "conn_rate";
/// Network namespace cookie (`u64`) → `u8` (no meaning): Pods in which a connection was spliced.
pub const SPLICE_NETNS: &str = "splice_netns";
/// 0 → nanoseconds of the monotonic clock (`u64`) until which somebody watches. Written by the
/// daemon.
pub const MONITOR_UNTIL: &str = "monitor_until";
/// Ring of [`Event`](crate::Event)s, while somebody watches.
pub const EVENTS: &str = "events";
/// 0 → [`RateWindow`](crate::RateWindow), for each CPU.
pub const EVENT_RATE: &str = "event_rate";
/// Slot → cookie of a socket (`u64`), for each CPU: the copy of `connect` or `sendmsg` at a child
/// cgroup has decided about the call, and the copy at the root has not run yet.
pub const DECIDED: &str = "decided";
/// [`Reason`](crate::Reason) → `u64`, for each CPU.
pub const COUNTERS: &str = "counters";

/// Every map. All of them outlive the daemon.
pub const ALL: [&str; 31] = [
    LOCAL_POD_IPS,
    PROCESS_IP,
    PORTS,
    PORT_RANGES,
    INCLUDE_CIDRS,
    EXCLUDE_CIDRS,
    BYPASS_CIDRS,
    PREFSRC_BY_DST,
    EXCLUDE_IFINDEX,
    DNS_CAPTURE,
    PENDING_PODS,
    NETNS_FOUND,
    PROXY_LISTENERS,
    LOOKUP_NETNS,
    LOOKUP_PROG,
    PROXY_SOCKETS,
    FOREIGN_BINDS,
    ALIAS_TO_DST,
    ALIAS_USAGE,
    PAIR_ORIGINAL_DST,
    ORIGINAL_DST,
    SOCK_PAIR_MAP,
    ACCEL_SOCK,
    ACCEL_FLOWS,
    CONN_RATE,
    SPLICE_NETNS,
    MONITOR_UNTIL,
    EVENTS,
    EVENT_RATE,
    DECIDED,
    COUNTERS,
];

/// Pod addresses, and network namespaces of meshed Pods. Hash tables allocate on demand.
pub const MAX_PODS: usize = 16_384;
/// Pods that are awaited at one time: every unknown caller is compared with each.
pub const MAX_PENDING_PODS: u32 = 32;
/// Bytes of the ring of events: what is told in a second by two CPUs.
pub const EVENTS_RING_BYTES: usize = 131_072;
/// Bytes of a ring that holds as many times what is told of one: a page at least.
pub const NETNS_FOUND_RING_BYTES: usize = 4096;
/// Listed ports of all Pods together, and listed ranges of ports.
pub const MAX_PORTS: usize = 262_144;
/// Listed networks of all Pods together, for each of the tries.
pub const MAX_NETWORKS: usize = 1_048_576;
/// Excluded interfaces of all Pods together.
pub const MAX_INTERFACES: usize = 16_384;
/// Listening sockets of all Pods together.
pub const MAX_LISTENERS: usize = 65_536;
/// Refused users of the proxies' ports that are remembered at one time, node-wide (LRU).
pub const MAX_FOREIGN_BINDS: usize = 1024;
/// Destinations of all Pods together. Those beyond are remembered by each connection for itself.
pub const MAX_ALIASES: usize = 262_144;
/// Connections between `connect` and `accept` at one time, node-wide (LRU).
pub const MAX_PENDING_ORIG_DSTS: usize = 32_768;
/// Accelerated connections, node-wide (LRU). One that is evicted goes on through TCP.
pub const MAX_ACCEL_FLOWS: usize = 32_768;
/// Their sockets.
pub const MAX_ACCEL_SOCKS: usize = 2 * MAX_ACCEL_FLOWS;
/// Kinds of connections that are counted at one time, node-wide (LRU). One that is evicted is counted
/// anew.
pub const MAX_CONN_RATES: usize = 4096;
/// Slots of [`DECIDED`] on each CPU: tasks that preempt each other within a call rarely share one.
pub const DECIDED_SLOTS: u32 = 16;

/// Pods whose full shares of a map that holds lists or addresses fit into it at the same time. The
/// daemon refuses a Pod that needs more than its share.
pub const FULL_SHARES: usize = 512;
/// The same for the maps of networks, whose lists are longer.
pub const FULL_NETWORK_SHARES: usize = 128;
/// Addresses of one Pod: its entries of `local_pod_ips`.
pub const ADDRESSES_PER_POD: usize = MAX_PODS / FULL_SHARES;
/// Entries of one Pod in `ports`, and in `port_ranges`, all lists together. A range of ports is up to
/// 30 entries.
pub const PORTS_PER_POD: usize = MAX_PORTS / FULL_SHARES;
/// Networks of one Pod in each of `include_cidrs`, `exclude_cidrs`, `bypass_cidrs` and `prefsrc_by_dst`.
pub const NETWORKS_PER_POD: usize = MAX_NETWORKS / FULL_NETWORK_SHARES;
/// Excluded interfaces of one Pod: its entries of `interfaces`.
pub const INTERFACES_PER_POD: usize = MAX_INTERFACES / FULL_SHARES;
/// Entries of one Pod in `alias_to_dst`. `connect` enforces it: connections beyond keep their
/// destination in their socket's storage.
pub const DESTINATIONS_PER_POD: u64 = 4096;

/// Pods whose full shares of `alias_to_dst` fit into it at the same time.
const FULL_ALIASES: u64 = 64;

// The kernel enforces the share of `proxy_listeners` by the places of a key, two families each.
const _: () = {
    let places = 2 * crate::ListenerKey::SLOTS as usize;
    assert!(places * FULL_SHARES <= MAX_LISTENERS);
    assert!(DESTINATIONS_PER_POD * FULL_ALIASES <= MAX_ALIASES as u64);
};
