//! Users of the processes in the Pods; each has a group of the same number.

/// The proxy's user and group, as Istio has it.
pub const PROXY: u32 = 1337;
/// The user of the applications.
pub const APPLICATION: u32 = 1000;
/// The user of the clients.
pub const CLIENT: u32 = 1001;
