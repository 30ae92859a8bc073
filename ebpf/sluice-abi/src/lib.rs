//! The ABI between the eBPF programs and the node daemon: the layout of every map's keys and values,
//! the numbers of the reasons, and the interception rules.
//!
//! The rules are pure functions: the same source runs in the kernel and, on the host, in the table of
//! tests of [`decide`].
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod accel_sock;
mod addr;
mod conn;
mod conn_rate;
pub mod decide;
mod event;
mod facts;
mod filter;
mod flow;
mod kernel_offsets;
#[cfg(test)]
mod layout;
mod listener;
pub mod maps;
pub mod opaque;
mod original_source;
mod pod;
mod pod_flags;
mod reason;
mod usage;

#[cfg(feature = "user")]
mod user;

pub use accel_sock::{AccelSock, SockKey, Window};
pub use addr::{Addr, Port};
pub use conn::{AliasKey, ConnKey, Endpoint, OrigDst, SockRole};
pub use conn_rate::{ConnRateKey, MAX_NEW_CONNS_PER_SEC};
pub use event::{Event, RateWindow};
pub use facts::Facts;
pub use filter::{
    CidrKey, InterfaceKey, NetworkPrefix, OwnAddrKey, OwnerGroupKey, PortBitmap, PortKey, PortList,
    PortPrefix,
};
pub use flow::{Flow, REDIRECT_WINDOW_BYTES, SendVerdict};
pub use kernel_offsets::{CredOffsets, KernelOffsets};
pub use listener::{ForeignKey, ForeignUse, ListenerKey};
pub use original_source::{SourceVerdict, original_source};
pub use pod::{NetnsEntry, PodConfig, REROUTE_MARK};
pub use pod_flags::PodFlags;
pub use reason::{Reason, ReasonKind};
pub use usage::{AliasUsage, BeforeProxy, PodCounter, PodCounters};

/// Version of every type and map of this crate that stays pinned while the daemon restarts.
///
/// It changes whenever a map's key, value, type or size changes; a test compares the layout with the
/// recorded layout of this number.
pub const ABI_VERSION: u32 = 12;
