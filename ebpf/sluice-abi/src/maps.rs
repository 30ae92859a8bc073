//! Names and sizes of the maps. The object file, bpffs and `bpftool` show these names.

/// Pod IP → [`PodConfig`](crate::PodConfig), for meshed Pods only. Written by the daemon.
pub const LOCAL_POD_IPS: &str = "local_pod_ips";
/// Network namespace cookie (`u64`) → [`NetnsEntry`](crate::NetnsEntry). Written by the daemon.
pub const PROCESS_IP: &str = "process_ip";
/// [`PortKey`](crate::PortKey) → `u8` (unused): listed ports. Written by the daemon.
pub const PORTS: &str = "ports";
/// Prefix of a [`PortKey`](crate::PortKey) → `u8` (unused): listed port ranges (LPM trie). Written by
/// the daemon.
pub const PORT_RANGES: &str = "port_ranges";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (unused): CIDRs to which redirection is restricted
/// (LPM trie). Written by the daemon.
pub const INCLUDE_CIDRS: &str = "include_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (unused): CIDRs that are not redirected (LPM trie).
/// Written by the daemon.
pub const EXCLUDE_CIDRS: &str = "exclude_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → `u8` (unused): CIDRs that bypass all rules (LPM trie).
/// Written by the daemon.
pub const BYPASS_CIDRS: &str = "bypass_cidrs";
/// Prefix of a [`CidrKey`](crate::CidrKey) → [`Addr`](crate::Addr): the preferred source address of the
/// Pod's route to a CIDR (LPM trie). Written by the daemon.
pub const PREFSRC_BY_DST: &str = "prefsrc_by_dst";
/// [`InterfaceKey`](crate::InterfaceKey) → `u8` (unused): interfaces that bypass all rules. Written by
/// the daemon.
pub const EXCLUDE_IFINDEX: &str = "exclude_ifindex";
/// [`InterfaceKey`](crate::InterfaceKey) → `u8` (unused): virtual interfaces, whose connections the
/// proxy gets. Written by the daemon.
pub const VIRTUAL_IFINDEX: &str = "virtual_ifindex";
/// 0 → the `reroute_in` program, 1 → `reroute_out` (program array). Written by the daemon.
pub const REROUTE_PROGS: &str = "reroute_progs";
/// Network namespace cookie (`u64`) → `u8` (unused): Pods whose proxy answers DNS queries. Written by
/// `sock_ops` and by the daemon.
pub const DNS_CAPTURE: &str = "dns_capture";
/// Index → provisional cookie (`u64`) of a Pod whose network namespace is not known; 0 ends the list.
/// Written by the daemon.
pub const PENDING_PODS: &str = "pending_pods";
/// Ring buffer of the network namespace cookies (`u64`) in which a pending Pod was found. Written by
/// `connect`.
pub const NETNS_FOUND: &str = "netns_found";
/// [`ListenerKey`](crate::ListenerKey) → socket. Written by `sock_ops` and by the daemon.
pub const PROXY_LISTENERS: &str = "proxy_listeners";
/// 0 → network namespace cookie (`u64`) of the current socket lookup (per CPU). Written by the entry
/// program of each intercepted netns.
pub const LOOKUP_NETNS: &str = "lookup_netns";
/// 0 → the `inbound_lookup` program (program array). Written by the daemon.
pub const LOOKUP_PROG: &str = "lookup_prog";
/// 0 → the program that decides about `connect` on `AF_INET` sockets, for the copies at both levels of the
/// cgroups. Written by the daemon.
pub const CONNECT4_PROG: &str = "connect4_prog";
/// The same for `AF_INET6`: the kernel accepts programs of one hook in one map (Linux 6.18).
pub const CONNECT6_PROG: &str = "connect6_prog";
/// 0 → the program that decides about DNS queries in `sendmsg` on `AF_INET` sockets, likewise.
pub const SENDMSG4_PROG: &str = "sendmsg4_prog";
/// The same for `AF_INET6`.
pub const SENDMSG6_PROG: &str = "sendmsg6_prog";
/// Socket → `u8`: who bound this socket to a port of the proxy: 0 for the proxy, 1 for a container that
/// validates the redirection.
pub const PROXY_SOCKETS: &str = "proxy_sockets";
/// [`OwnerGroupKey`](crate::OwnerGroupKey) → `u8` (unused): listed groups. Written by the daemon.
pub const OWNER_GROUPS: &str = "owner_groups";
/// [`OwnAddrKey`](crate::OwnAddrKey) → `u8` (unused): addresses of the Pod beside its main addresses,
/// reported or not. Written by the daemon.
pub const OWN_ADDRS: &str = "own_addrs";
/// [`ForeignKey`](crate::ForeignKey) → [`ForeignUse`](crate::ForeignUse): a process that was denied a
/// port of the proxy. Written by `bind` and `listen`.
pub const FOREIGN_BINDS: &str = "foreign_binds";
/// Ring buffer of the network namespace cookies (`u64`) in which a process was denied a port of the
/// proxy, once for each user and port. Written by `bind` and `listen`.
pub const FOREIGN_FOUND: &str = "foreign_found";
/// Network namespace cookie (`u64`) → UID (`u32`, in the initial user namespace) of a process that is
/// not the proxy and listens on its outbound port. Written by the daemon.
pub const FOREIGN_LISTENERS: &str = "foreign_listeners";
/// Network namespace cookie (`u64`) → [`BeforeProxy`](crate::BeforeProxy). Written by the daemon when
/// it enrolls the Pod, then by `connect` and `sock_ops`.
pub const BEFORE_PROXY: &str = "before_proxy";
/// [`AliasKey`](crate::AliasKey) → [`Endpoint`](crate::Endpoint): the original destination of the
/// connections to an alias address. Written by `connect`; the daemon removes the entries of deleted
/// Pods.
pub const ALIAS_TO_DST: &str = "alias_to_dst";
/// Network namespace cookie (`u64`) → [`AliasUsage`](crate::AliasUsage): a Pod's usage of
/// `alias_to_dst`. Written by `connect`; the daemon removes the entries of deleted Pods.
pub const ALIAS_USAGE: &str = "alias_usage";
/// [`ConnKey`](crate::ConnKey) → [`Endpoint`](crate::Endpoint): the original destination between
/// connect and accept.
pub const PAIR_ORIGINAL_DST: &str = "pair_original_dst";
/// [`ConnKey`](crate::ConnKey) of the client's netns → `u8` (unused): open connections of the node's
/// processes to Pods that do not intercept them. Written by `sock_ops`.
pub const NODE_CONNS: &str = "node_conns";
/// Socket → [`OrigDst`](crate::OrigDst): the original destination of the connection.
pub const ORIGINAL_DST: &str = "original_dst";
/// [`SockKey`](crate::SockKey) → socket: ends of accelerated connections.
pub const SOCK_PAIR_MAP: &str = "sock_pair_map";
/// Socket → [`AccelSock`](crate::AccelSock): the connection and the end that the socket is.
pub const ACCEL_SOCK: &str = "accel_sock";
/// [`ConnKey`](crate::ConnKey) → [`SockKey`](crate::SockKey) of the client end: the accelerated connections
/// by their addresses. The cookie of the key is that of the network namespace of both ends, or zero for a
/// connection between two Pods, whose addresses are unique on a node.
pub const ACCEL_CONNS: &str = "accel_conns";
/// [Number](crate::SockKey::number) of a connection (`u64`) → [`Flow`](crate::Flow): the state of both
/// directions.
pub const ACCEL_FLOWS: &str = "accel_flows";
/// [`ConnRateKey`](crate::ConnRateKey) → [`RateWindow`](crate::RateWindow): connections to one
/// destination in this second; a short-lived one counts as many.
pub const CONN_RATE: &str = "conn_rate";
/// Network namespace cookie (`u64`) → `u8` (unused): Pods in which a process called `splice(2)` on an
/// accelerated connection.
pub const SPLICE_NETNS: &str = "splice_netns";
/// 0 → nanoseconds of the monotonic clock (`u64`) until which a monitor receives events. Written by the
/// daemon.
pub const MONITOR_UNTIL: &str = "monitor_until";
/// Ring buffer of [`Event`](crate::Event)s, filled while a monitor is active.
pub const EVENTS: &str = "events";
/// 0 → [`RateWindow`](crate::RateWindow) of the events (per CPU).
pub const EVENT_RATE: &str = "event_rate";
/// Slot → socket cookie (`u64`, per CPU): the child copy of `connect` or `sendmsg` has decided about
/// the call, and the root copy has not run yet.
pub const DECIDED: &str = "decided";
/// Network namespace cookie (`u64`) → [`PodCounters`](crate::PodCounters) (per CPU). The daemon inserts
/// and removes the entries; the programs count.
pub const POD_COUNTERS: &str = "pod_counters";
/// [`Reason`](crate::Reason) → `u64` (per CPU).
pub const COUNTERS: &str = "counters";

/// All maps. Every one is pinned and outlives the daemon.
pub const ALL: [&str; 45] = [
    LOCAL_POD_IPS,
    PROCESS_IP,
    PORTS,
    PORT_RANGES,
    INCLUDE_CIDRS,
    EXCLUDE_CIDRS,
    BYPASS_CIDRS,
    PREFSRC_BY_DST,
    EXCLUDE_IFINDEX,
    VIRTUAL_IFINDEX,
    REROUTE_PROGS,
    DNS_CAPTURE,
    PENDING_PODS,
    NETNS_FOUND,
    PROXY_LISTENERS,
    LOOKUP_NETNS,
    LOOKUP_PROG,
    CONNECT4_PROG,
    CONNECT6_PROG,
    SENDMSG4_PROG,
    SENDMSG6_PROG,
    PROXY_SOCKETS,
    OWNER_GROUPS,
    OWN_ADDRS,
    FOREIGN_BINDS,
    FOREIGN_FOUND,
    FOREIGN_LISTENERS,
    BEFORE_PROXY,
    ALIAS_TO_DST,
    ALIAS_USAGE,
    PAIR_ORIGINAL_DST,
    NODE_CONNS,
    ORIGINAL_DST,
    SOCK_PAIR_MAP,
    ACCEL_SOCK,
    ACCEL_CONNS,
    ACCEL_FLOWS,
    CONN_RATE,
    SPLICE_NETNS,
    MONITOR_UNTIL,
    EVENTS,
    EVENT_RATE,
    DECIDED,
    POD_COUNTERS,
    COUNTERS,
];

/// Addresses of meshed Pods. Hash maps allocate their entries on demand, and a table of this size at once
/// (16 bytes for each possible entry).
pub const MAX_ADDRESSES: usize = 16_384;
/// Network namespaces of meshed Pods.
pub const MAX_PODS: usize = 4096;
/// Maximum number of pending Pods: the program compares every unknown caller with each.
pub const MAX_PENDING_PODS: u32 = 32;
/// Size of the event ring in bytes: the events of two CPUs in one second.
pub const EVENTS_RING_BYTES: usize = 131_072;
/// Ring size in bytes, which must be at least one page. The ring holds many more cookies than there are
/// pending Pods.
pub const NETNS_FOUND_RING_BYTES: usize = 4096;
/// The same for `foreign_found`. A cookie that does not fit is found at the next resync.
pub const FOREIGN_FOUND_RING_BYTES: usize = 4096;
/// Listed ports of all Pods, and listed port ranges of all Pods.
pub const MAX_PORTS: usize = 65_536;
/// Listed CIDRs of all Pods, in each trie.
pub const MAX_NETWORKS: usize = 1_048_576;
/// Excluded interfaces of all Pods, and virtual interfaces of all Pods.
pub const MAX_INTERFACES: usize = 4096;
/// Listening sockets of all Pods.
pub const MAX_LISTENERS: usize = 16_384;
/// Listed groups of all Pods.
pub const MAX_OWNER_GROUPS: usize = 16_384;
/// Addresses of all Pods beside their main addresses.
pub const MAX_OWN_ADDRS: usize = 16_384;
/// Recorded denials of the proxies' ports, node-wide (LRU).
pub const MAX_FOREIGN_BINDS: usize = 1024;
/// Alias addresses of all Pods. Connections beyond use socket storage instead.
pub const MAX_ALIASES: usize = 131_072;
/// Connections without an alias address between `connect` and `accept`, node-wide (LRU).
pub const MAX_PENDING_ORIG_DSTS: usize = 8192;
/// Open connections of the node's processes to Pods that do not intercept them, node-wide (LRU). An
/// evicted one is intercepted if the Pod has not accepted it yet.
pub const MAX_NODE_CONNS: usize = 8192;
/// Accelerated connections, node-wide (LRU). An evicted connection continues on TCP.
pub const MAX_ACCEL_FLOWS: usize = 32_768;
/// Sockets of accelerated connections.
pub const MAX_ACCEL_SOCKS: usize = 2 * MAX_ACCEL_FLOWS;
/// Destinations whose connection rate is counted, node-wide (LRU). The count of an evicted one starts
/// again.
pub const MAX_CONN_RATES: usize = 4096;
/// Slots of [`DECIDED`] on each CPU: tasks that preempt each other within a call rarely share one.
pub const DECIDED_SLOTS: u32 = 16;

/// Number of Pods whose full shares of `local_pod_ips` or `proxy_listeners` fit into it together. The
/// daemon rejects a Pod that needs more than its share.
pub const FULL_SHARES: usize = 512;
/// The same for the maps of lists, of which most Pods use a small part.
pub const FULL_LIST_SHARES: usize = 128;
/// Addresses of one Pod: its entries of `local_pod_ips`.
pub const ADDRESSES_PER_POD: usize = MAX_ADDRESSES / FULL_SHARES;
/// Entries of one Pod in `own_addrs`: every reported address, and at least as many others. The daemon
/// writes no more.
pub const OWN_ADDRS_PER_POD: usize = 2 * ADDRESSES_PER_POD;
/// Entries of one Pod in `ports`, and in `port_ranges`, over all its lists. A port range needs up to 30
/// entries.
pub const PORTS_PER_POD: usize = MAX_PORTS / FULL_LIST_SHARES;
/// CIDRs of one Pod in each of `include_cidrs`, `exclude_cidrs`, `bypass_cidrs` and `prefsrc_by_dst`.
pub const NETWORKS_PER_POD: usize = MAX_NETWORKS / FULL_LIST_SHARES;
/// Excluded interfaces of one Pod: its entries of `exclude_ifindex`.
pub const INTERFACES_PER_POD: usize = MAX_INTERFACES / FULL_LIST_SHARES;
/// Listed groups of one Pod.
pub const OWNER_GROUPS_PER_POD: usize = MAX_OWNER_GROUPS / FULL_LIST_SHARES;
/// Entries of one Pod in `alias_to_dst`. `connect` enforces the limit: connections beyond keep their
/// destination in socket storage.
pub const DESTINATIONS_PER_POD: u64 = 4096;

/// Number of Pods whose full shares of `alias_to_dst` fit into it together.
const FULL_ALIASES: u64 = 32;
/// The same for `own_addrs`, of which most Pods use an entry or two.
const FULL_OWN_ADDRS: usize = 256;

// The slots of a key limit the share of `proxy_listeners`: `SLOTS` for each of two families.
const _: () = {
    let places = 2 * crate::ListenerKey::SLOTS as usize;
    assert!(places * FULL_SHARES <= MAX_LISTENERS);
    assert!(DESTINATIONS_PER_POD * FULL_ALIASES <= MAX_ALIASES as u64);
    assert!(OWN_ADDRS_PER_POD * FULL_OWN_ADDRS <= MAX_OWN_ADDRS);
};
