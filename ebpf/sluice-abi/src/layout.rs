//! The test of the layout of every key and value. Each type is `repr(C)` without implicit padding: the
//! kernel compares keys byte by byte.

use core::mem::{align_of, size_of};

use crate::{
    ABI_VERSION, AccelSock, AliasKey, BeforeProxy, CidrKey, ConnKey, ConnRateKey, Endpoint, Event,
    Flow, ForeignKey, ForeignUse, InterfaceKey, KernelOffsets, ListenerKey, NetnsEntry, OrigDst,
    OwnAddrKey, OwnerGroupKey, PodConfig, PodCounters, PortKey, RateWindow, SockKey, maps,
};

#[test]
fn the_layout_is_the_one_recorded_for_this_abi_version() {
    let layout = [
        (size_of::<PodConfig>(), align_of::<PodConfig>()),
        (size_of::<NetnsEntry>(), align_of::<NetnsEntry>()),
        (size_of::<Endpoint>(), align_of::<Endpoint>()),
        (size_of::<AliasKey>(), align_of::<AliasKey>()),
        (size_of::<OrigDst>(), align_of::<OrigDst>()),
        (size_of::<ConnKey>(), align_of::<ConnKey>()),
        (size_of::<SockKey>(), align_of::<SockKey>()),
        (size_of::<AccelSock>(), align_of::<AccelSock>()),
        (size_of::<Flow>(), align_of::<Flow>()),
        (size_of::<ConnRateKey>(), align_of::<ConnRateKey>()),
        (size_of::<KernelOffsets>(), align_of::<KernelOffsets>()),
        (size_of::<PortKey>(), align_of::<PortKey>()),
        (size_of::<CidrKey>(), align_of::<CidrKey>()),
        (size_of::<ListenerKey>(), align_of::<ListenerKey>()),
        (size_of::<ForeignKey>(), align_of::<ForeignKey>()),
        (size_of::<InterfaceKey>(), align_of::<InterfaceKey>()),
        (size_of::<OwnerGroupKey>(), align_of::<OwnerGroupKey>()),
        (size_of::<OwnAddrKey>(), align_of::<OwnAddrKey>()),
        (size_of::<ForeignUse>(), align_of::<ForeignUse>()),
        (size_of::<BeforeProxy>(), align_of::<BeforeProxy>()),
        (size_of::<Event>(), align_of::<Event>()),
        (size_of::<RateWindow>(), align_of::<RateWindow>()),
        (size_of::<PodCounters>(), align_of::<PodCounters>()),
    ];
    let recorded = [
        (56, 8),
        (88, 8),
        (20, 4),
        (16, 8),
        (24, 4),
        (48, 8),
        (8, 8),
        (32, 8),
        (40, 8),
        (32, 8),
        (56, 4),
        (16, 8),
        (32, 8),
        (16, 8),
        (16, 8),
        (16, 8),
        (16, 8),
        (24, 8),
        (16, 8),
        (16, 8),
        (64, 8),
        (16, 8),
        (40, 8),
    ];
    assert_eq!((ABI_VERSION, layout), (12, recorded));
}

/// A daemon adopts pinned maps as they are: with another size, the shares of Pods would not fit.
#[test]
fn map_sizes_are_those_recorded_for_this_abi_version() {
    let sizes = [
        maps::MAX_ADDRESSES,
        maps::MAX_PODS,
        maps::MAX_PORTS,
        maps::MAX_NETWORKS,
        maps::MAX_INTERFACES,
        maps::MAX_LISTENERS,
        maps::MAX_OWNER_GROUPS,
        maps::MAX_OWN_ADDRS,
        maps::MAX_FOREIGN_BINDS,
        maps::MAX_ALIASES,
        maps::MAX_PENDING_ORIG_DSTS,
        maps::MAX_NODE_CONNS,
        maps::MAX_ACCEL_FLOWS,
        maps::MAX_CONN_RATES,
    ];
    let recorded = [
        16_384, 4096, 65_536, 1_048_576, 4096, 16_384, 16_384, 16_384, 1024, 131_072, 8192, 8192,
        32_768, 4096,
    ];
    assert_eq!((ABI_VERSION, sizes), (12, recorded));
}
