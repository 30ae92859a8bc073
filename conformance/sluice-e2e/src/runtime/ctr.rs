//! `ctr run --cni`, which passes neither annotations nor names.

use anyhow::Result;
use sluice_testbed::process::output;

use crate::runtime::{IMAGE, LIMIT, Node, Outcomes, containerd::Containerd, refused};

/// Every behaviour.
pub(super) fn run(node: &Node<'_>, containerd: &Containerd) -> Outcomes {
    let name = |what: &str| format!("ctr run --cni: {what}");
    vec![
        (
            name("a container without a description does not start, with the reason"),
            refused(start(node, containerd), &["annotations"]),
        ),
        (name("no state of the Pod is left"), node.expect_no_state()),
    ]
}

/// Its directories are fixed: it runs in a mount namespace in which they are the lab's.
fn start(node: &Node<'_>, containerd: &Containerd) -> Result<String> {
    let view = r#"
        mount -t tmpfs lab /opt
        mkdir -p /opt/cni/bin /etc/cni/net.d
        mount --bind "$1" /opt/cni/bin
        mount --bind "$2" /etc/cni/net.d
        exec ctr --address "$3" run --detach --cni --snapshotter native "$4" lonely"#;
    let mut command = node.command("unshare")?;
    command
        .args(["--mount", "/bin/sh", "-ec", view, "sh"])
        .arg(node.lab.file("plugins"))
        .arg(node.lab.file("net.d"))
        .arg(&containerd.socket)
        .arg(IMAGE);
    let outcome = output(&mut command, LIMIT);
    // ctr keeps the container that it could not connect.
    for verb in ["tasks", "containers"] {
        let force = if verb == "tasks" {
            vec![verb, "rm", "--force", "lonely"]
        } else {
            vec![verb, "rm", "lonely"]
        };
        let _ = containerd.ctr(node, &force);
    }
    outcome
}
