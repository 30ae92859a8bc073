//! Names of maps and programs, as the object file, bpffs and `bpftool` show them.

/// Pod IP → [`Pod`](crate::Pod), for meshed Pods only. Written by the daemon.
pub const LOCAL_POD_IPS: &str = "local_pod_ips";
/// Network namespace cookie (`u64`) → [`Process`](crate::Process). Written by the daemon.
pub const PROCESS_IP: &str = "process_ip";
/// [`PortKey`](crate::PortKey) → `u8` (no meaning): listed ports. Written by the daemon.
pub const PORTS: &str = "ports";
/// Prefix of a [`PortKey`](crate::PortKey) → `u8` (no meaning): listed ranges of ports, as a trie.
/// Written by the daemon.
pub const PORT_RANGES: &str = "port_ranges";
/// Prefix of a [`RangeKey`](crate::RangeKey) → `u8` (no meaning): the only networks whose
/// connections are the proxy's, as a trie. Written by the daemon.
pub const INCLUDED: &str = "included";
/// Prefix of a [`RangeKey`](crate::RangeKey) → `u8` (no meaning): networks that are left alone,
/// as a trie. Written by the daemon.
pub const EXCLUDED: &str = "excluded";
/// Prefix of a [`RangeKey`](crate::RangeKey) → `u8` (no meaning): networks of which no row is asked,
/// as a trie. Written by the daemon.
pub const ASIDE: &str = "aside";
/// Prefix of a [`RangeKey`](crate::RangeKey) → [`Addr`](crate::Addr): from which of the Pod's
/// addresses its routes lead to a network, as a trie. Written by the daemon.
pub const SOURCES: &str = "sources";
/// [`InterfaceKey`](crate::InterfaceKey) → `u8` (no meaning): interfaces of which no row is asked.
/// Written by the daemon.
pub const INTERFACES: &str = "interfaces";
/// Network namespace cookie (`u64`) → `u8` (no meaning): Pods whose proxy answers DNS queries.
/// Written by `sock_ops` and by the daemon.
pub const RESOLVERS: &str = "resolvers";
/// Place → provisional cookie (`u64`) of a Pod whose network namespace is not known; 0 ends the
/// list. Written by the daemon.
pub const AWAITED: &str = "awaited";
/// Ring of network namespace cookies (`u64`) in which an awaited Pod was found. Written by
/// `connect`.
pub const LEARNED: &str = "learned";
/// [`ListenerKey`](crate::ListenerKey) → socket. Written by `sock_ops` and by the daemon.
pub const LISTENERS: &str = "listeners";
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
/// [`Meeting`](crate::Meeting) → [`Endpoint`](crate::Endpoint): where the connections were going
/// that meet the proxy there. Written by `connect`; the daemon removes what is left of Pods.
pub const DESTINATIONS: &str = "destinations";
/// Network namespace cookie (`u64`) → [`AliasUsage`](crate::AliasUsage): what a Pod uses of
/// `destinations`. Written by `connect`; the daemon removes the entries of Pods that are gone.
pub const ALIAS_USAGE: &str = "alias_usage";
/// [`Pair`](crate::Pair) → [`Endpoint`](crate::Endpoint): between connect and accept.
pub const PAIR_ORIGINAL_DST: &str = "pair_original_dst";
/// Socket → [`Original`](crate::Original): what the connection's client asked for.
pub const ORIGINAL_DST: &str = "original_dst";
/// [`Lane`](crate::Lane) → socket: ends of accelerated connections.
pub const SOCK_PAIR_MAP: &str = "sock_pair_map";
/// Socket → [`Lane`](crate::Lane): which end it is.
pub const LANES: &str = "lanes";
/// [`Pair`](crate::Pair) → [`Flow`](crate::Flow): how far each direction is.
pub const FLOWS: &str = "flows";
/// [`Habit`](crate::Habit) → [`Told`](crate::Told): how many connections of a kind were made in this
/// second.
pub const HABITS: &str = "habits";
/// Network namespace cookie (`u64`) → `u8` (no meaning): Pods in which a connection was spliced.
pub const SPLICERS: &str = "splicers";
/// 0 → nanoseconds of the monotonic clock (`u64`) until which somebody watches. Written by the
/// daemon.
pub const WATCHED: &str = "watched";
/// Ring of [`Event`](crate::Event)s, while somebody watches.
pub const EVENTS: &str = "events";
/// 0 → [`Told`](crate::Told), for each CPU.
pub const TOLD: &str = "told";
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
    INCLUDED,
    EXCLUDED,
    ASIDE,
    SOURCES,
    INTERFACES,
    RESOLVERS,
    AWAITED,
    LEARNED,
    LISTENERS,
    LOOKUP_NETNS,
    LOOKUP_PROG,
    PROXY_SOCKETS,
    FOREIGN_BINDS,
    DESTINATIONS,
    ALIAS_USAGE,
    PAIR_ORIGINAL_DST,
    ORIGINAL_DST,
    SOCK_PAIR_MAP,
    LANES,
    FLOWS,
    HABITS,
    SPLICERS,
    WATCHED,
    EVENTS,
    TOLD,
    DECIDED,
    COUNTERS,
];

/// Pod addresses, and network namespaces of meshed Pods. Hash tables allocate on demand.
pub const MAX_PODS: usize = 16_384;
/// Pods that are awaited at one time: every unknown caller is compared with each.
pub const MAX_AWAITED: u32 = 32;
/// Bytes of the ring of events: what is told in a second by two CPUs.
pub const EVENTS_BYTES: usize = 131_072;
/// Bytes of a ring that holds as many times what is told of one: a page at least.
pub const LEARNED_BYTES: usize = 4096;
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
pub const MAX_DESTINATIONS: usize = 262_144;
/// Connections between `connect` and `accept` at one time, node-wide (LRU).
pub const MAX_PAIRS: usize = 32_768;
/// Accelerated connections, node-wide (LRU). One that is evicted goes on through TCP.
pub const MAX_FLOWS: usize = 32_768;
/// Their sockets.
pub const MAX_LANES: usize = 2 * MAX_FLOWS;
/// Kinds of connections that are counted at one time, node-wide (LRU). One that is evicted is counted
/// anew.
pub const MAX_HABITS: usize = 4096;
/// Slots of [`DECIDED`] on each CPU: tasks that preempt each other within a call rarely share one.
pub const DECIDED_SLOTS: u32 = 16;

/// Pods whose full shares of a map that holds lists or addresses fit into it at the same time. The
/// daemon refuses a Pod that needs more than its share.
pub const FULL_SHARES: usize = 512;
/// Addresses of one Pod: its entries of `local_pod_ips`.
pub const ADDRESSES_PER_POD: usize = MAX_PODS / FULL_SHARES;
/// Entries of one Pod in `ports`, and in `port_ranges`, all lists together. A range of ports is up to
/// 30 entries.
pub const PORTS_PER_POD: usize = MAX_PORTS / FULL_SHARES;
/// Networks of one Pod in each of `included`, `excluded`, `aside` and `sources`.
pub const NETWORKS_PER_POD: usize = MAX_NETWORKS / FULL_SHARES;
/// Excluded interfaces of one Pod: its entries of `interfaces`.
pub const INTERFACES_PER_POD: usize = MAX_INTERFACES / FULL_SHARES;
/// Entries of one Pod in `destinations`. `connect` enforces it: connections beyond keep their
/// destination in their socket's storage.
pub const DESTINATIONS_PER_POD: u64 = 4096;

/// Pods whose full shares of `destinations` fit into it at the same time.
const FULL_ALIASES: u64 = 64;

// The kernel enforces the share of `listeners` by the places of a key, two families each.
const _: () = {
    let places = 2 * crate::ListenerKey::PLACES as usize;
    assert!(places * FULL_SHARES <= MAX_LISTENERS);
    assert!(DESTINATIONS_PER_POD * FULL_ALIASES <= MAX_DESTINATIONS as u64);
};
