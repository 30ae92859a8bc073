//! What the kernel programs and the node daemon agree on: the layout of every map's keys and
//! values, the numbers of the reasons, and the decisions themselves.
//!
//! The decisions are pure functions of values: the same source runs in the kernel and, on the
//! host, under the table of tests in [`decide`].
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

mod addr;
pub mod decide;
mod event;
mod filter;
mod flow;
mod kernel_offsets;
pub mod maps;
mod pod;
mod reason;
mod usage;

#[cfg(feature = "user")]
mod user;

pub use addr::{Addr, Port};
pub use event::{Event, RateWindow};
pub use filter::{CidrKey, InterfaceKey, NetworkPrefix, PortBitmap, PortKey, PortList, PortPrefix};
pub use flow::{
    ConnRateKey, Flow, MAX_NEW_CONNS_PER_SEC, REDIRECT_WINDOW_BYTES, SendVerdict, SockKey,
};
pub use kernel_offsets::KernelOffsets;
pub use pod::{
    AliasKey, ConnKey, Endpoint, ForeignKey, ListenerKey, NetnsEntry, OrigDst, PodConfig, PodFlags,
    SockRole,
};
pub use reason::Reason;
pub use usage::AliasUsage;

/// Version of everything in this crate that the kernel keeps while the daemon is restarted.
///
/// It changes whenever a map's key, value or type changes; a test compares the layout with the
/// one recorded for this number.
pub const ABI_VERSION: u32 = 7;
