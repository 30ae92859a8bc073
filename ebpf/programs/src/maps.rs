//! Definitions of the maps. Names, types and sizes are the contract with the daemon
//! (`sluice_abi::maps`).

use aya_ebpf::{
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
        SkStorage, SockHash,
    },
    macros::btf_map,
};
use sluice_abi::{
    AccelSock, Addr, AliasKey, AliasUsage, BeforeProxy, CidrKey, ConnKey, ConnRateKey, Endpoint,
    Event, Flow, ForeignKey, ForeignUse, InterfaceKey, ListenerKey, NetnsEntry, OrigDst,
    OwnAddrKey, OwnerGroupKey, PodConfig, PodCounters, PortKey, RateWindow, Reason, SockKey,
    maps::{
        DECIDED_SLOTS, EVENTS_RING_BYTES, FOREIGN_FOUND_RING_BYTES, MAX_ACCEL_FLOWS,
        MAX_ACCEL_SOCKS, MAX_ADDRESSES, MAX_ALIASES, MAX_CONN_RATES, MAX_FOREIGN_BINDS,
        MAX_INTERFACES, MAX_LISTENERS, MAX_NETWORKS, MAX_NODE_CONNS, MAX_OWN_ADDRS,
        MAX_OWNER_GROUPS, MAX_PENDING_ORIG_DSTS, MAX_PENDING_PODS, MAX_PODS, MAX_PORTS,
        NETNS_FOUND_RING_BYTES,
    },
};

/// `BPF_F_NO_PREALLOC`: the kernel allocates memory for existing entries only.
const ON_DEMAND: usize = 1;

#[btf_map(name = "local_pod_ips")]
pub(crate) static LOCAL_POD_IPS: HashMap<Addr, PodConfig, MAX_ADDRESSES, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "process_ip")]
pub(crate) static PROCESS_IP: HashMap<u64, NetnsEntry, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "ports")]
pub(crate) static PORTS: HashMap<PortKey, u8, MAX_PORTS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "port_ranges")]
pub(crate) static PORT_RANGES: LpmTrie<PortKey, u8, MAX_PORTS> = LpmTrie::new();

#[btf_map(name = "include_cidrs")]
pub(crate) static INCLUDE_CIDRS: LpmTrie<CidrKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "exclude_cidrs")]
pub(crate) static EXCLUDE_CIDRS: LpmTrie<CidrKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "bypass_cidrs")]
pub(crate) static BYPASS_CIDRS: LpmTrie<CidrKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "prefsrc_by_dst")]
pub(crate) static PREFSRC_BY_DST: LpmTrie<CidrKey, Addr, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "exclude_ifindex")]
pub(crate) static EXCLUDE_IFINDEX: HashMap<InterfaceKey, u8, MAX_INTERFACES, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "virtual_ifindex")]
pub(crate) static VIRTUAL_IFINDEX: HashMap<InterfaceKey, u8, MAX_INTERFACES, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "reroute_progs")]
pub(crate) static REROUTE_PROGS: ProgramArray<2> = ProgramArray::new();

#[btf_map(name = "connect4_prog")]
pub(crate) static CONNECT4_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "connect6_prog")]
pub(crate) static CONNECT6_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "sendmsg4_prog")]
pub(crate) static SENDMSG4_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "sendmsg6_prog")]
pub(crate) static SENDMSG6_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "dns_capture")]
pub(crate) static DNS_CAPTURE: HashMap<u64, u8, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "pending_pods")]
pub(crate) static PENDING_PODS: Array<u64, { MAX_PENDING_PODS as usize }> = Array::new();

#[btf_map(name = "netns_found")]
pub(crate) static NETNS_FOUND: RingBuf<u64, NETNS_FOUND_RING_BYTES> = RingBuf::new();

#[btf_map(name = "proxy_listeners")]
pub(crate) static PROXY_LISTENERS: SockHash<ListenerKey, MAX_LISTENERS> = SockHash::new();

#[btf_map(name = "lookup_netns")]
pub(crate) static LOOKUP_NETNS: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map(name = "lookup_prog")]
pub(crate) static LOOKUP_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "proxy_sockets")]
pub(crate) static PROXY_SOCKETS: SkStorage<u8> = SkStorage::new();

#[btf_map(name = "owner_groups")]
pub(crate) static OWNER_GROUPS: HashMap<OwnerGroupKey, u8, MAX_OWNER_GROUPS, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "own_addrs")]
pub(crate) static OWN_ADDRS: HashMap<OwnAddrKey, u8, MAX_OWN_ADDRS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "foreign_binds")]
pub(crate) static FOREIGN_BINDS: LruHashMap<ForeignKey, ForeignUse, MAX_FOREIGN_BINDS> =
    LruHashMap::new();

#[btf_map(name = "foreign_found")]
pub(crate) static FOREIGN_FOUND: RingBuf<u64, FOREIGN_FOUND_RING_BYTES> = RingBuf::new();

#[btf_map(name = "foreign_listeners")]
pub(crate) static FOREIGN_LISTENERS: HashMap<u64, u32, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "before_proxy")]
pub(crate) static BEFORE_PROXY: HashMap<u64, BeforeProxy, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "alias_to_dst")]
pub(crate) static ALIAS_TO_DST: HashMap<AliasKey, Endpoint, MAX_ALIASES, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "alias_usage")]
pub(crate) static ALIAS_USAGE: HashMap<u64, AliasUsage, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "pair_original_dst")]
pub(crate) static PAIR_ORIGINAL_DST: LruHashMap<ConnKey, Endpoint, MAX_PENDING_ORIG_DSTS> =
    LruHashMap::new();

#[btf_map(name = "node_conns")]
pub(crate) static NODE_CONNS: LruHashMap<ConnKey, u8, MAX_NODE_CONNS> = LruHashMap::new();

#[btf_map(name = "original_dst")]
pub(crate) static ORIGINAL_DST: SkStorage<OrigDst> = SkStorage::new();

#[btf_map(name = "sock_pair_map")]
pub(crate) static SOCK_PAIR_MAP: SockHash<SockKey, MAX_ACCEL_SOCKS> = SockHash::new();

#[btf_map(name = "accel_sock")]
pub(crate) static ACCEL_SOCK: SkStorage<AccelSock> = SkStorage::new();

#[btf_map(name = "accel_conns")]
pub(crate) static ACCEL_CONNS: LruHashMap<ConnKey, SockKey, MAX_ACCEL_FLOWS> = LruHashMap::new();

#[btf_map(name = "accel_flows")]
pub(crate) static ACCEL_FLOWS: LruHashMap<u64, Flow, MAX_ACCEL_FLOWS> = LruHashMap::new();

#[btf_map(name = "conn_rate")]
pub(crate) static CONN_RATE: LruHashMap<ConnRateKey, RateWindow, MAX_CONN_RATES> =
    LruHashMap::new();

#[btf_map(name = "splice_netns")]
pub(crate) static SPLICE_NETNS: LruHashMap<u64, u8, MAX_PODS> = LruHashMap::new();

#[btf_map(name = "monitor_until")]
pub(crate) static MONITOR_UNTIL: Array<u64, 1> = Array::new();

#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_RING_BYTES> = RingBuf::new();

#[btf_map(name = "event_rate")]
pub(crate) static EVENT_RATE: PerCpuArray<RateWindow, 1> = PerCpuArray::new();

#[btf_map(name = "decided")]
pub(crate) static DECIDED: PerCpuArray<u64, { DECIDED_SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "pod_counters")]
pub(crate) static POD_COUNTERS: PerCpuHashMap<u64, PodCounters, MAX_PODS, ON_DEMAND> =
    PerCpuHashMap::new();

#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();

/// The Pod of a network namespace, by its cookie.
#[inline(always)]
pub(crate) fn netns_entry(cookie: u64) -> Option<&'static NetnsEntry> {
    // SAFETY: the daemon replaces entries whole, and programs only read; the kernel frees an entry
    // after an RCU grace period, which ends after the program.
    unsafe { PROCESS_IP.get(cookie) }
}

/// The Pod of this node with this address.
#[inline(always)]
pub(crate) fn pod(addr: Addr) -> Option<&'static PodConfig> {
    // SAFETY: as in `netns_entry`.
    unsafe { LOCAL_POD_IPS.get(addr) }
}

/// The state of an accelerated connection.
#[inline(always)]
pub(crate) fn flow(key: SockKey) -> Option<&'static mut Flow> {
    // SAFETY: an evicted entry may belong to another connection before the program ends, which then
    // writes to it: at worst, that one's bytes lose their order, or it is aborted. It takes more new
    // connections than the map has entries while one program runs. Only the sender, whose socket is locked,
    // writes its direction's path; a lost update of the shared part costs speed, not order.
    ACCEL_FLOWS
        .get_ptr_mut(key.number())
        .map(|flow| unsafe { &mut *flow })
}
