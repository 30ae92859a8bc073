//! A program of another owner that admits no further program at its hook.

use crate::{balancer::Balancer, node::Daemon};

#[test]
fn exclusive_holder_of_a_hook_is_named() {
    let mut daemon = Daemon::start("exclusive");
    assert!(daemon.stop().is_some());
    assert!(daemon.detach().status.success());
    let holder = Balancer::attach_exclusively(daemon.cgroup());
    let (code, said) = daemon.rival();
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "'balance_connect' (id ",
        "loaded by uid 0) holds the hook exclusively",
        "bpftool cgroup show",
    ] {
        assert!(said.contains(part), "{said}");
    }
    drop(holder);
    daemon.restart();
}
