//! Containment of rtnetlink's decoder in fuzz targets.

use std::{cell::Cell, panic, sync::Once};

thread_local! {
    static IN_DECODER: Cell<bool> = const { Cell::new(false) };
}

/// Runs the decoder of rtnetlink as the daemon does: in the daemon it has a task of its own, and a panic
/// there fails the request alone. `netlink-packet-route` 0.28 panics on attributes that are shorter than
/// their structure (cache info, realms); the kernel writes whole structures.
pub(super) fn contained<T>(decode: impl FnOnce() -> T + panic::UnwindSafe) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // The fuzzer's own hook aborts.
        let fuzzer = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IN_DECODER.get() {
                fuzzer(info);
            }
        }));
    });
    IN_DECODER.set(true);
    let decoded = panic::catch_unwind(decode);
    IN_DECODER.set(false);
    decoded.ok()
}
