//! Alias addresses: each stands for one original destination of a Pod.
//!
//! An entry is written once, and neither changed nor evicted while the Pod is meshed. So no connection,
//! established or future, can observe another connection's destination, and no state is necessary for
//! each connection.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use sluice_abi::{Addr, AliasKey, AliasUsage, Endpoint, Port};

use crate::{
    context,
    maps::{ALIAS_TO_DST, ALIAS_USAGE},
};

/// The alias address of `dst` at the proxy's listener `port`. `None` if every probe belongs to another
/// destination, the Pod's share is used up, or the map is full.
#[inline(always)]
pub(crate) fn allocate(cookie: u64, dst: Endpoint, port: Port) -> Option<Endpoint> {
    let found = find(cookie, dst, port);
    if found.is_none()
        && let Some(usage) = usage(cookie)
    {
        // SAFETY: as in `insert`.
        unsafe { (*usage).fallbacks += 1 };
    }
    found
}

#[inline(always)]
fn find(cookie: u64, dst: Endpoint, port: Port) -> Option<Endpoint> {
    for probe in 0..Addr::ALIAS_PROBES {
        let alias = Endpoint::new(dst.addr.alias(dst.port, probe), port);
        let key = AliasKey::from_addr(cookie, alias)?;
        if get_or_insert(key, dst)?.const_eq(dst) {
            return Some(alias);
        }
    }
    None
}

/// The alias address that `dst` has already.
#[inline(always)]
pub(crate) fn existing(cookie: u64, dst: Endpoint, port: Port) -> Option<Endpoint> {
    for probe in 0..Addr::ALIAS_PROBES {
        let alias = Endpoint::new(dst.addr.alias(dst.port, probe), port);
        if destination(cookie, alias)?.const_eq(dst) {
            return Some(alias);
        }
    }
    None
}

/// The destination that an alias address of a Pod stands for.
#[inline(always)]
pub(crate) fn destination(cookie: u64, alias: Endpoint) -> Option<Endpoint> {
    get(AliasKey::from_addr(cookie, alias)?)
}

/// The destination of an alias address: `dst`, if it had none. `None` if the map or share is full.
#[inline(always)]
fn get_or_insert(key: AliasKey, dst: Endpoint) -> Option<Endpoint> {
    get(key).or_else(|| insert(key, dst))
}

/// Inserts within the Pod's share. Two CPUs that count at the same time can lose a count, and each can
/// exceed the share by one entry; the daemon corrects the count.
#[inline(always)]
fn insert(key: AliasKey, dst: Endpoint) -> Option<Endpoint> {
    let usage = usage(key.cookie)?;
    // SAFETY: the entry is valid until the program ends; each word is read and written whole.
    if unsafe { *usage }.is_full() {
        return None;
    }
    if ALIAS_TO_DST
        .insert(key, dst, u64::from(BPF_NOEXIST))
        .is_err()
    {
        // Another CPU may have inserted it first.
        return get(key);
    }
    // SAFETY: as above.
    unsafe { (*usage).held += 1 };
    Some(dst)
}

/// The Pod's usage of `alias_to_dst`. `None` if the map is full.
#[inline(always)]
fn usage(cookie: u64) -> Option<*mut AliasUsage> {
    ALIAS_USAGE.get_ptr_mut(cookie).or_else(|| {
        // Another CPU may insert it first.
        let _present = ALIAS_USAGE.insert(cookie, AliasUsage::default(), u64::from(BPF_NOEXIST));
        ALIAS_USAGE.get_ptr_mut(cookie)
    })
}

#[inline(always)]
fn get(key: AliasKey) -> Option<Endpoint> {
    // SAFETY: entries never change; the daemon removes those of deleted Pods.
    unsafe { ALIAS_TO_DST.get(key) }.copied()
}

/// The original destination of the connections to this address, if it is an alias address.
#[inline(always)]
pub(crate) fn lookup(ctx: &impl EbpfContext, alias: Endpoint) -> Option<Endpoint> {
    // The cheapest test is first.
    if !alias.addr.is_alias() {
        return None;
    }
    destination(context::netns_cookie(ctx), alias)
}
