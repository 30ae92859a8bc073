//! Tests of Pods that are deleted while their processes run.

use super::{Namespace, Node, attachment, request, reserved_ports::listener};

const ADDRESSES: [&str; 1] = ["10.1.0.1"];

#[test]
fn deleted_pod_with_a_process_is_found_once() {
    let node = Node::new("departed");
    let manager = &mut node.start();
    let (who, pod) = (attachment("a", "eth0"), Namespace::with(&ADDRESSES));
    let cookie = pod.cookie();
    let delete = |manager: &mut crate::pods::manager::PodManager| {
        manager.add(request(&who, &pod, &ADDRESSES)).unwrap();
        manager.del(&who).unwrap();
        let running = manager.departed.take_running();
        running.iter().map(|one| one.id.cookie).collect::<Vec<_>>()
    };
    assert!(delete(manager).is_empty());
    let mut process = listener(&pod);
    assert_eq!(delete(manager), [cookie]);
    assert!(manager.departed.take_running().is_empty());
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(delete(manager).is_empty());
}
