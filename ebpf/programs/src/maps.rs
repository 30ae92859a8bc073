//! The maps. Names, types and sizes are the contract with the daemon (`sluice_abi::maps`).

use aya_ebpf::{
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage,
        SockHash,
    },
    macros::btf_map,
};
use sluice_abi::{
    Addr, AliasUsage, Endpoint, Event, Flow, ForeignKey, Habit, InterfaceKey, Lane, ListenerKey,
    Meeting, Original, Pair, Pod, PortKey, Process, RangeKey, Reason, Told,
    maps::{
        DECIDED_SLOTS, EVENTS_BYTES, LEARNED_BYTES, MAX_AWAITED, MAX_DESTINATIONS, MAX_FLOWS,
        MAX_FOREIGN_BINDS, MAX_HABITS, MAX_INTERFACES, MAX_LANES, MAX_LISTENERS, MAX_NETWORKS,
        MAX_PAIRS, MAX_PODS, MAX_PORTS,
    },
};

/// `BPF_F_NO_PREALLOC`: memory for the Pods that exist, not for those that could.
const ON_DEMAND: usize = 1;

#[btf_map(name = "local_pod_ips")]
pub(crate) static LOCAL_POD_IPS: HashMap<Addr, Pod, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "process_ip")]
pub(crate) static PROCESS_IP: HashMap<u64, Process, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "ports")]
pub(crate) static PORTS: HashMap<PortKey, u8, MAX_PORTS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "port_ranges")]
pub(crate) static PORT_RANGES: LpmTrie<PortKey, u8, MAX_PORTS> = LpmTrie::new();

#[btf_map(name = "included")]
pub(crate) static INCLUDED: LpmTrie<RangeKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "excluded")]
pub(crate) static EXCLUDED: LpmTrie<RangeKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "aside")]
pub(crate) static ASIDE: LpmTrie<RangeKey, u8, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "sources")]
pub(crate) static SOURCES: LpmTrie<RangeKey, Addr, MAX_NETWORKS> = LpmTrie::new();

#[btf_map(name = "interfaces")]
pub(crate) static INTERFACES: HashMap<InterfaceKey, u8, MAX_INTERFACES, ON_DEMAND> = HashMap::new();

#[btf_map(name = "resolvers")]
pub(crate) static RESOLVERS: HashMap<u64, u8, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "awaited")]
pub(crate) static AWAITED: Array<u64, { MAX_AWAITED as usize }> = Array::new();

#[btf_map(name = "learned")]
pub(crate) static LEARNED: RingBuf<u64, LEARNED_BYTES> = RingBuf::new();

#[btf_map(name = "listeners")]
pub(crate) static LISTENERS: SockHash<ListenerKey, MAX_LISTENERS> = SockHash::new();

#[btf_map(name = "lookup_netns")]
pub(crate) static LOOKUP_NETNS: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map(name = "lookup_prog")]
pub(crate) static LOOKUP_PROG: ProgramArray<1> = ProgramArray::new();

#[btf_map(name = "proxy_sockets")]
pub(crate) static PROXY_SOCKETS: SkStorage<u8> = SkStorage::new();

#[btf_map(name = "foreign_binds")]
pub(crate) static FOREIGN_BINDS: LruHashMap<ForeignKey, u32, MAX_FOREIGN_BINDS> = LruHashMap::new();

#[btf_map(name = "destinations")]
pub(crate) static DESTINATIONS: HashMap<Meeting, Endpoint, MAX_DESTINATIONS, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "alias_usage")]
pub(crate) static ALIAS_USAGE: HashMap<u64, AliasUsage, MAX_PODS, ON_DEMAND> = HashMap::new();

#[btf_map(name = "pair_original_dst")]
pub(crate) static PAIR_ORIGINAL_DST: LruHashMap<Pair, Endpoint, MAX_PAIRS> = LruHashMap::new();

#[btf_map(name = "original_dst")]
pub(crate) static ORIGINAL_DST: SkStorage<Original> = SkStorage::new();

#[btf_map(name = "sock_pair_map")]
pub(crate) static SOCK_PAIR_MAP: SockHash<Lane, MAX_LANES> = SockHash::new();

#[btf_map(name = "lanes")]
pub(crate) static LANES: SkStorage<Lane> = SkStorage::new();

#[btf_map(name = "flows")]
pub(crate) static FLOWS: LruHashMap<Pair, Flow, MAX_FLOWS> = LruHashMap::new();

#[btf_map(name = "habits")]
pub(crate) static HABITS: LruHashMap<Habit, Told, MAX_HABITS> = LruHashMap::new();

#[btf_map(name = "splicers")]
pub(crate) static SPLICERS: LruHashMap<u64, u8, MAX_PODS> = LruHashMap::new();

#[btf_map(name = "watched")]
pub(crate) static WATCHED: Array<u64, 1> = Array::new();

#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();

#[btf_map(name = "told")]
pub(crate) static TOLD: PerCpuArray<Told, 1> = PerCpuArray::new();

#[btf_map(name = "decided")]
pub(crate) static DECIDED: PerCpuArray<u64, { DECIDED_SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();

/// The Pod of a network namespace, by its cookie.
#[inline(always)]
pub(crate) fn process(cookie: u64) -> Option<&'static Process> {
    // SAFETY: the daemon replaces entries whole, and programs only read; an entry is freed after a
    // grace period of RCU, that is after the program has ended.
    unsafe { PROCESS_IP.get(cookie) }
}

/// The Pod of this node that has an address.
#[inline(always)]
pub(crate) fn pod(addr: Addr) -> Option<&'static Pod> {
    // SAFETY: as in `process`.
    unsafe { LOCAL_POD_IPS.get(addr) }
}

/// The state of an accelerated connection.
#[inline(always)]
pub(crate) fn flow(pair: Pair) -> Option<&'static mut Flow> {
    // SAFETY: an evicted entry may be another connection's by the time that a program ends, whose state
    // is then that of this one for a moment: TCP carries a message, or a budget is wrong by one. Each
    // direction's part is written by its sender alone, whose socket is locked; what is lost of the
    // common part costs speed, not order.
    FLOWS.get_ptr_mut(pair).map(|flow| unsafe { &mut *flow })
}
